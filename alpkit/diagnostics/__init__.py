"""Statistics of importance ratios on plain arrays: numpy and scipy, no torch, no pandas.

Works on anyone's log-probs: `log_ratio` is log numerator - log mu of valid tokens, in nats.
"""

from alpkit.diagnostics.ccdf import Ccdf, ccdf
from alpkit.diagnostics.divergences import Level, divergences, reduce_to_level
from alpkit.diagnostics.envelope import Envelope, envelope, envelope_sequences
from alpkit.diagnostics.spikes import Spike, SpikeDetector
from alpkit.diagnostics.summary import ratio_summary
from alpkit.diagnostics.tails import (
    SATURATION,
    Side,
    Status,
    TailFit,
    fit_gpd,
    fit_khat,
    hill,
    hill_curve,
    khat_limit,
    tail_size,
)

__all__ = [
    "SATURATION",
    "Ccdf",
    "Envelope",
    "Level",
    "Side",
    "Spike",
    "SpikeDetector",
    "Status",
    "TailFit",
    "ccdf",
    "divergences",
    "envelope",
    "envelope_sequences",
    "fit_gpd",
    "fit_khat",
    "hill",
    "hill_curve",
    "khat_limit",
    "ratio_summary",
    "reduce_to_level",
    "tail_size",
]
