"""Statistics of importance ratios on plain arrays: numpy and scipy, no torch, no pandas.

Works on anyone's log-probs: `log_ratio` is log numerator - log mu of valid tokens, in nats.
"""

from alpkit.diagnostics.attribution import Attribution, SequenceShare, attribute
from alpkit.diagnostics.ccdf import Ccdf, ccdf
from alpkit.diagnostics.decomposition import Decomposition, decompose
from alpkit.diagnostics.divergences import Level, divergences, reduce_to_level
from alpkit.diagnostics.envelope import Envelope, envelope, envelope_sequences
from alpkit.diagnostics.hill import HillCurve, hill, hill_curve
from alpkit.diagnostics.sketch import RatioSketch, merge_all
from alpkit.diagnostics.spikes import Spike, SpikeDetector
from alpkit.diagnostics.summary import ratio_summary
from alpkit.diagnostics.tailfit import SATURATION, Side, Status, TailFit, khat_limit, tail_size
from alpkit.diagnostics.tails import fit_gpd, fit_khat

__all__ = [
    "SATURATION",
    "Attribution",
    "Ccdf",
    "Decomposition",
    "Envelope",
    "HillCurve",
    "Level",
    "RatioSketch",
    "SequenceShare",
    "Side",
    "Spike",
    "SpikeDetector",
    "Status",
    "TailFit",
    "attribute",
    "ccdf",
    "decompose",
    "divergences",
    "envelope",
    "envelope_sequences",
    "fit_gpd",
    "fit_khat",
    "hill",
    "hill_curve",
    "khat_limit",
    "merge_all",
    "ratio_summary",
    "reduce_to_level",
    "tail_size",
]
