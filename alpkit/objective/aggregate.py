"""Reduce per-token losses to one number, with the whole mini-batch's denominators."""

from collections.abc import Iterable
from functools import reduce
from typing import NamedTuple, assert_never

import torch
from jaxtyping import Float, Int
from torch import Tensor

from alpkit.config.objective import Aggregate, ObjectiveConfig
from alpkit.objective.rejection import reject
from alpkit.objective.tokens import TokenBatch, marks
from alpkit.objective.weights import raw_weight, weight_sums


class Normalizer(NamedTuple):
    """A whole mini-batch's denominator of the loss, and the mean that batch normalisation divides by."""

    loss: Float[Tensor, ""]
    mean_weight: Float[Tensor, ""] | None = None


class Sums(NamedTuple):
    """Counts and weights of one micro-batch, from which denominators are made; they add up."""

    tokens: Float[Tensor, ""]
    sequences: Float[Tensor, ""]
    rows: Float[Tensor, ""]
    weight: Float[Tensor, ""]
    weights: Float[Tensor, ""]


def normalizer_sums(
    *,
    logp: Float[Tensor, "batch tok"] | None,
    logp_old: Float[Tensor, "batch tok"] | None,
    logp_rollout: Float[Tensor, "batch tok"],
    mask: Tensor,
    advantage: Tensor,
    config: ObjectiveConfig,
    turn: Int[Tensor, "batch tok"] | None = None,
) -> Sums:
    """Sum one micro-batch's share of the mini-batch's denominators; arguments as of `policy_loss`.

    `logp` may be None unless `config.of_whole_batch` has "bypass", `logp_old` unless it has "mismatch".
    """
    tokens = TokenBatch.of(
        logp=logp, logp_old=logp_old, logp_rollout=logp_rollout, mask=mask, turn=turn
    )
    return sums_of(tokens, advantage[:, None] if advantage.ndim == 1 else advantage, config)


def sums_of(
    tokens: TokenBatch, advantage: Float[Tensor, "batch #tok"], config: ObjectiveConfig
) -> Sums:
    """Add up one prepared micro-batch's denominators; the mean weight is taken before any rejection."""
    counted, clamp = tokens.count, config.log_ratio_clamp
    shrinking = [rule for rule in config.reject if rule.normalizer == "shrink"]
    if shrinking:
        logs = tokens.over_rollout(rule.of for rule in shrinking)
        gone = reject(tokens, logs, shrinking, clamp=clamp, advantage=advantage).uncounted
        counted = counted - tokens.rows(gone)
    weight = weights = torch.zeros_like(tokens.nonfinite)
    if config.weight.normalize == "batch":
        logs = tokens.over_rollout([config.weight.of])
        factor = raw_weight(tokens, logs, config.weight, clamp).weight
        weight, weights = weight_sums(factor, tokens, config.weight)
    return _sums(counted, weight, weights)


def own_normalizer(
    counted: Float[Tensor, "batch 1"], config: ObjectiveConfig, *, fixed_length: int
) -> Normalizer:
    """Give the denominator where one micro-batch is the whole mini-batch, from its counted tokens per response."""
    nothing = counted.new_zeros(())
    denominators = whole_batch(
        [_sums(counted, nothing, nothing)], config, fixed_length=fixed_length
    )
    return Normalizer(denominators.loss)


def _sums(
    counted: Float[Tensor, "batch 1"], weight: Float[Tensor, ""], weights: Float[Tensor, ""]
) -> Sums:
    some = marks(torch.gt, counted, 0.0).sum()
    rows = torch.full_like(some, counted.shape[0])
    return Sums(counted.sum(), some, rows, weight, weights)


def whole_batch(parts: Iterable[Sums], config: ObjectiveConfig, *, fixed_length: int) -> Normalizer:
    """Add the micro-batches' sums up to the mini-batch's denominators (never 0).

    `fixed_length`: tokens that fixed_length_* divides by.
    """
    tokens, sequences, rows, weight, weights = (
        reduce(torch.add, column) for column in zip(*parts, strict=True)
    )
    mean = weight / weights.clamp(min=1) if config.weight.normalize == "batch" else None
    match config.aggregate:
        case "token_mean":
            count = tokens
        case "token_mean_per_micro_batch":
            count = rows
        case "seq_mean_token_sum" | "seq_mean_token_mean":
            count = sequences
        case "fixed_length_sum":
            count = torch.full_like(rows, fixed_length)
        case "fixed_length_mean":
            count = sequences * fixed_length
        case _:
            assert_never(config.aggregate)
    return Normalizer(count.clamp(min=1), mean)


def row_scale(
    counted: Float[Tensor, "batch 1"], aggregate: Aggregate, normalizer: Float[Tensor, ""]
) -> Float[Tensor, "#batch 1"]:
    """Give the factor on each response's summed loss with which micro-batches add up to the mini-batch's loss."""
    match aggregate:
        case "seq_mean_token_mean":
            return 1 / (counted.clamp(min=1) * normalizer)
        case "token_mean_per_micro_batch":
            tokens = counted.sum().clamp(min=1)
            return (counted.shape[0] / (tokens * normalizer)).reshape(1, 1)
        case _:
            return (1 / normalizer).reshape(1, 1)
