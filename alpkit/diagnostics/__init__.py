"""Statistics of importance ratios on plain arrays: numpy and scipy, no torch, no pandas.

Works on anyone's log-probs: `log_ratio` is log numerator - log mu of valid tokens, in nats.
"""

from alpkit.diagnostics.attribution import Attribution, SequenceShare, attribute
from alpkit.diagnostics.ccdf import Ccdf, ccdf
from alpkit.diagnostics.decomposition import Decomposition, decompose
from alpkit.diagnostics.divergences import divergences
from alpkit.diagnostics.envelope import Envelope, envelope
from alpkit.diagnostics.ess import ess, ess_of_sums
from alpkit.diagnostics.fit_tests import GoodnessOfFit, Vuong, compare_lognormal, goodness_of_fit
from alpkit.diagnostics.gaps import probability_gap
from alpkit.diagnostics.hill import HillCurve, hill, hill_curve
from alpkit.diagnostics.levels import Level, reduce_to_level
from alpkit.diagnostics.moment import moment_estimator
from alpkit.diagnostics.qq import QQ, qq_exponential
from alpkit.diagnostics.shifts import LevelShift, LevelShifts, level_shifts
from alpkit.diagnostics.sketch import RatioSketch
from alpkit.diagnostics.spikes import Spike, SpikeDetector, SpikeSummary, spike_summary
from alpkit.diagnostics.tailfit import SATURATION, Side, Status, TailFit, khat_limit, tail_size
from alpkit.diagnostics.tails import fit_gpd, fit_gpd_mle, fit_khat

__all__ = [
    "QQ",
    "SATURATION",
    "Attribution",
    "Ccdf",
    "Decomposition",
    "Envelope",
    "GoodnessOfFit",
    "HillCurve",
    "Level",
    "LevelShift",
    "LevelShifts",
    "RatioSketch",
    "SequenceShare",
    "Side",
    "Spike",
    "SpikeDetector",
    "SpikeSummary",
    "Status",
    "TailFit",
    "Vuong",
    "attribute",
    "ccdf",
    "compare_lognormal",
    "decompose",
    "divergences",
    "envelope",
    "ess",
    "ess_of_sums",
    "fit_gpd",
    "fit_gpd_mle",
    "fit_khat",
    "goodness_of_fit",
    "hill",
    "hill_curve",
    "khat_limit",
    "level_shifts",
    "moment_estimator",
    "probability_gap",
    "qq_exponential",
    "reduce_to_level",
    "spike_summary",
    "tail_size",
]
