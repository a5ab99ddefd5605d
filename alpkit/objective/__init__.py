"""Pure functions of tensors: ratios, weights, surrogates, advantages, aggregation.

Takes arrays and plain settings, so that a notebook can call it on anyone's log-probs.
"""

from alpkit.objective.advantage import group_advantage
from alpkit.objective.aggregate import aggregate_loss, loss_normalizer
from alpkit.objective.levels import reduce_to_level
from alpkit.objective.loss import LossOutput, policy_loss
from alpkit.objective.surrogate import surrogate
from alpkit.objective.weights import Correction, importance_weight

__all__ = [
    "Correction",
    "LossOutput",
    "aggregate_loss",
    "group_advantage",
    "importance_weight",
    "loss_normalizer",
    "policy_loss",
    "reduce_to_level",
    "surrogate",
]
