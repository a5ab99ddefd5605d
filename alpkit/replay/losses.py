"""Apply a method to recorded tokens: loss, ratios, weights, what it removes. No model needed.

Calls the very `policy_loss` that trains, on the trainer's own micro-batches, with the mini-batch's
normaliser. The derivative by each token's log-prob comes with it: where it is 0 the token is mute.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from alpkit.diagnostics import ess
from alpkit.objective import Inputs, LossOutput, normalizer_sums, policy_loss, whole_batch
from alpkit.replay.batches import IDENTITY, RecordedStep
from alpkit.replay.book import Row
from alpkit.replay.methods import Method
from alpkit.trainer.measure import read_out, receipt_part

_UNSIGNED: Final = tuple(
    f"receipt/{name}"
    for name in (
        *("truncated", "raised", "masked", "weight_removed"),
        *("rejected", "rejected_sequences", "saturated"),
    )
)
"""Receipts that no advantage enters."""


class Scored(NamedTuple):
    """One micro-batch under one method; `slope`: d loss / d log-prob; `finite`: tokens it could use."""

    output: LossOutput
    slope: Tensor
    finite: Tensor


@dataclass(frozen=True)
class Outcome:
    """One method on one step. Arrays have one entry per recorded token, in the records' order.

    `removed`: weight or rejection took it out; `mute`: it has an advantage and no gradient, be it
    removed or clipped.
    """

    method: Method
    loss: float
    receipt: dict[str, float]
    ratio: np.ndarray
    weight: np.ndarray
    slope: np.ndarray
    removed: np.ndarray
    mute: np.ndarray


def score(method: Method, mini_batch: Sequence[Inputs], fixed_length: int) -> list[Scored]:
    """Compute loss and slopes of every micro-batch of one mini-batch."""
    objective = method.objective
    sums = [normalizer_sums(**vars(inputs), config=objective) for inputs in mini_batch]
    normalizer = whole_batch(sums, objective, fixed_length=fixed_length)
    scored = []
    for given in mini_batch:
        inputs = replace(given, logp=given.logp.detach().requires_grad_())
        output = policy_loss(**vars(inputs), config=objective, normalizer=normalizer)
        (slope,) = torch.autograd.grad(output.loss, inputs.logp)
        scored.append(Scored(output, slope, _usable(given, objective.needs_logp_old)))
    return scored


def replay_method(method: Method, recorded: RecordedStep) -> Outcome:
    """Apply one method to a recorded step; `method.obstacle` must be empty."""
    numerator = "logp_train" if method.perturbation is None else "logp_perturbed"
    logp = recorded.logps[numerator]
    advantage = recorded.advantage(method.objective.advantage)
    length = recorded.config.rollout.max_tokens
    scored: list[Scored] = []
    inputs: list[Inputs] = []
    for micros in recorded.plan:
        mini_batch = [recorded.inputs(micro, logp, advantage) for micro in micros]
        scored += score(method, mini_batch, length)
        inputs += mini_batch
    outputs = [part.output for part in scored]
    masks = [part.mask for part in inputs]
    order = recorded.order
    keep = _flat([o.keep for o in outputs], masks)[order]
    finite = _flat([part.finite for part in scored], masks)[order]
    slope = _flat([part.slope for part in scored], masks)[order]
    sized = _flat([_per_token(part) for part in inputs], masks)[order] != 0
    return Outcome(
        method=method,
        loss=sum(float(o.loss.detach()) for o in outputs) / len(recorded.plan),
        receipt=read_out([receipt_part(outputs, method.objective)]),
        ratio=_flat([o.ratio for o in outputs], masks)[order].astype(np.float64),
        weight=(_flat([o.weight for o in outputs], masks)[order] * keep).astype(np.float64),
        slope=slope,
        removed=finite & ~keep,
        mute=finite & sized & (slope == 0),
    )


def row_of(replayed: Outcome, recorded: RecordedStep) -> Row:
    """Make the method's row of `Replay.methods`."""
    kept = replayed.weight[replayed.weight > 0]
    reward = recorded.tokens["reward"].to_numpy()[replayed.removed]
    known = len(reward) > 0 and not np.isnan(reward).any()
    alive = pd.Series(~replayed.removed).groupby(recorded.tokens["sample"].to_numpy()).any()
    return {
        "step": recorded.step,
        "method": replayed.method.name,
        "own": replayed.method.own,
        "loss": replayed.loss if _knows_loss(replayed.method, recorded) else np.nan,
        "tokens": len(replayed.ratio),
        "responses": len(alive),
        "removed": float(replayed.removed.mean()),
        "removed_responses": float((~alive).mean()),
        "removed_solved": float((reward >= 1).mean()) if known else np.nan,
        "mute": float(replayed.mute.mean()) if recorded.has_advantage else np.nan,
        "weight_ess": _ess(replayed.weight),
        **_quantiles("weight", kept),
        "ratio_ess": _ess(replayed.ratio),
        **_quantiles("ratio", replayed.ratio),
        **{
            name: value
            for name, value in replayed.receipt.items()
            if recorded.has_advantage or name in _UNSIGNED
        },
    }


def _knows_loss(method: Method, recorded: RecordedStep) -> bool:
    fixed = method.objective.aggregate.startswith("fixed_length")
    return recorded.has_advantage and (recorded.knows_length or not fixed)


def overlaps(outcomes: Sequence[Outcome], step: int, *, signed: bool = True) -> list[Row]:
    """Make the rows of `Replay.overlap`: every ordered pair, by what is removed and by what is mute.

    Without advantages nothing is mute, and no row says so.
    """
    return [
        {
            "step": step,
            "of": of,
            "method": outcome.method.name,
            "other": other.method.name,
            **_overlap(getattr(outcome, of), getattr(other, of)),
        }
        for of in (("removed", "mute") if signed else ("removed",))
        for outcome in outcomes
        for other in outcomes
    ]


def token_rows(outcomes: Sequence[Outcome], recorded: RecordedStep) -> pd.DataFrame:
    """Make the rows of `Replay.tokens`: every recorded token under every method."""
    known = recorded.tokens[[*IDENTITY, "reward", "logp_rollout", "logp_old", "logp_train"]]
    parts = [
        known.assign(
            method=outcome.method.name,
            ratio=outcome.ratio,
            weight=outcome.weight,
            slope=outcome.slope,
            removed=outcome.removed,
            mute=outcome.mute,
        )
        for outcome in outcomes
    ]
    return pd.concat(parts, ignore_index=True) if parts else known.iloc[:0]


def _overlap(these: np.ndarray, others: np.ndarray) -> Row:
    both, either = int((these & others).sum()), int((these | others).sum())
    return {"both": both, "either": either, "jaccard": both / either if either else np.nan}


def _flat(parts: Sequence[Tensor], masks: Sequence[Tensor]) -> np.ndarray:
    """Collect the values at the masked places, micro-batch after micro-batch."""
    picked = [part.expand(mask.shape)[mask] for part, mask in zip(parts, masks, strict=True)]
    values: np.ndarray = torch.cat(picked).detach().cpu().numpy()
    return values


def _usable(part: Inputs, needs_old: bool) -> Tensor:
    """Mark valid tokens whose log-probs are all finite; the others are in no loss, whatever the correction."""
    values = part.logp + part.logp_rollout
    if needs_old and part.logp_old is not None:
        values = values + part.logp_old
    return part.mask & values.isfinite()


def _per_token(part: Inputs) -> Tensor:
    advantage = part.advantage
    return advantage if advantage.ndim == 2 else advantage[:, None].expand_as(part.mask)


def _ess(values: np.ndarray) -> float:
    with np.errstate(divide="ignore"):
        return ess(np.log(values))


def _quantiles(name: str, values: np.ndarray) -> dict[str, float]:
    keys = [f"{name}_{key}" for key in ("p02", "p50", "p98", "max")]
    if not len(values):
        return dict.fromkeys(keys, np.nan)
    return dict(zip(keys, np.quantile(values, [0.02, 0.5, 0.98, 1.0]).tolist(), strict=True))
