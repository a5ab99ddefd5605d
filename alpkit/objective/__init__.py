"""Pure functions of tensors: ratios, weights, rejections, surrogates, advantages, aggregation.

Takes arrays and plain settings, so that a notebook can call it on anyone's log-probs.
"""

from alpkit.objective.advantage import group_advantage, turn_advantage
from alpkit.objective.aggregate import Normalizer, normalizer_sums, whole_batch
from alpkit.objective.centering import TopTokens
from alpkit.objective.correction import Correction, mismatch_correction
from alpkit.objective.inputs import Inputs
from alpkit.objective.levels import reduce_to_level
from alpkit.objective.loss import LossOutput, policy_loss
from alpkit.objective.reference import reference_kl
from alpkit.objective.sketch import sketch_state
from alpkit.objective.surrogate import surrogate

__all__ = [
    "Correction",
    "Inputs",
    "LossOutput",
    "Normalizer",
    "TopTokens",
    "group_advantage",
    "mismatch_correction",
    "normalizer_sums",
    "policy_loss",
    "reduce_to_level",
    "reference_kl",
    "sketch_state",
    "surrogate",
    "turn_advantage",
    "whole_batch",
]
