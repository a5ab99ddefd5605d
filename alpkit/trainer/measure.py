"""Turn a step's tokens into its metrics: every number that the trainer logs about ratios is made here.

Quantities are pooled over the step's updates before anything is computed; nothing is a mean of
micro-batch extremes. What is to be logged is first gathered on the device, as `Pending`, and then
crosses to the host in one transfer:

    read_out([rollout_part(batch, group), advantage_part(tokens), ratio_part(tokens, objective)])
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from alpkit.config import ObjectiveConfig
from alpkit.diagnostics import RatioSketch, divergences, probability_gap
from alpkit.diagnostics.overflow import K3_CAP
from alpkit.metrics import RATIO_LEVELS
from alpkit.objective import LossOutput, sketch_state
from alpkit.trainer.batches import Batch, TokenTable

_ENGINE_METRICS = (
    *("prob_gap", "prob_gap_max", "log_correlation", "mult_prob_error"),
    *("log_ppl_diff", "ppl_ratio"),
)

Numbers = Mapping[str, Float[np.ndarray, " number"]]


class Pending(NamedTuple):
    """Numbers that are still on the device, and the function that makes metrics of them on the host."""

    numbers: Mapping[str, Tensor]
    read: Callable[[Numbers], dict[str, float]]


def read_out(parts: Sequence[Pending]) -> dict[str, float]:
    """Copy the numbers of all parts from the device in one transfer, as float64, and make their metrics."""
    vectors = [
        value.detach().double().flatten() for part in parts for value in part.numbers.values()
    ]
    if not vectors:
        return {}
    ends = np.cumsum([len(vector) for vector in vectors])
    arrays = iter(np.split(torch.cat(vectors).cpu().numpy(), ends[:-1]))
    metrics: dict[str, float] = {}
    for part in parts:
        metrics |= part.read({name: next(arrays) for name in part.numbers})
    return metrics


def rollout_part(batch: Batch, group: int) -> Pending:
    """Measure a rollout: reward/*, response/* and nonfinite/rollout_logp."""
    reward = batch.drawn if batch.drawn is not None else batch.reward
    groups = reward.view(-1, group)
    response = batch.rollout.response
    length = response.sum(dim=1).float()
    finished = [answer.finish == "stop" for answer in batch.responses]
    on_host = {
        "reward/mean": reward.mean().item(),
        "reward/std": reward.std(correction=0).item(),
        "reward/solved_all": (groups >= 1).all(dim=1).float().mean().item(),
        "reward/solved_none": (groups <= 0).all(dim=1).float().mean().item(),
        "response/finished": float(np.mean(finished)),
        **batch.grading,
        **batch.receipt,
        **batch.turns,
    }
    numbers = {
        "response/length_mean": length.mean(),
        "response/length_max": length.max(),
        "nonfinite/rollout_logp": batch.nonfinite.sum(),
    }
    return Pending(numbers, lambda read: on_host | _scalars(read))


def advantage_part(tokens: TokenTable) -> Pending:
    """Count valid tokens by the sign of their advantage: advantage/*."""
    if "advantage" not in tokens.columns or not len(tokens):
        return Pending({}, _scalars)
    advantage = tokens["advantage"]
    signs = {"positive": advantage > 0, "negative": advantage < 0, "zero": advantage == 0}
    return Pending(
        {f"advantage/{name}": marked.double().mean() for name, marked in signs.items()}, _scalars
    )


def ratio_part(tokens: TokenTable, objective: ObjectiveConfig | None) -> Pending:
    """Measure ratios: kl/* and ratio/<kind>/<level>/<stat> of every factor that this step computed.

    Every ratio is sketched where its log-probs are: one vector for each crosses to the host.
    `objective`: None where nobody knows which ratio was clipped.
    """
    responses = _Groups.of(tokens["sample"])
    per_level = {
        f"ratio/{kind}/{level}": _at_level(log_ratio, responses, level)
        for kind, log_ratio in _factors(tokens, objective).items()
        for level in RATIO_LEVELS
    }
    if _weighted(tokens, objective):
        weight = tokens["weight"].double()
        per_level["ratio/applied/token"] = weight[weight > 0].log()
    sketches = {name: sketch_state(values) for name, values in per_level.items()}
    return Pending(sketches | _of_finite_tokens(tokens), _read_ratios)


def engine_part(tokens: TokenTable) -> Pending:
    """Measure the gap of the two engines on one set of weights, beyond what their ratio says: mismatch/*."""
    if not {"logp_old", "logp_rollout"} <= tokens.columns.keys():
        return Pending({}, _scalars)
    names = ("logp_old", "logp_rollout", "sample")
    return Pending({name: tokens[name] for name in names}, _read_engines)


def receipt_part(
    outputs: Sequence[LossOutput], objective: ObjectiveConfig, *, draws: int = 1
) -> Pending:
    """Count what the correction touched, over the step's valid tokens, once per draw of noise: receipt/*."""
    entries: dict[str, list[Tensor]] = {}
    for output in outputs:
        for name, value in output.receipt.items():
            entries.setdefault(name, []).append(value.double())
    sums = {name: torch.stack(values).sum() for name, values in entries.items()}
    return Pending(sums, partial(_read_receipts, objective=objective, draws=draws))


class _Groups(NamedTuple):
    """The groups (responses, updates) that tokens belong to, and the number of tokens of each."""

    owner: Int[Tensor, " tok"]
    size: Int[Tensor, " group"]

    @classmethod
    def of(cls, ids: Int[Tensor, " tok"]) -> "_Groups":
        _, owner, size = ids.unique(return_inverse=True, return_counts=True)
        return cls(owner, size)

    def total(self, values: Float[Tensor, " tok"]) -> Float[Tensor, " group"]:
        return values.new_zeros(len(self.size)).index_add(0, self.owner, values)

    def mean(self, values: Float[Tensor, " tok"]) -> Float[Tensor, " group"]:
        return self.total(values) / self.size


def _at_level(
    log_ratio: Float[Tensor, " tok"], responses: _Groups, level: str
) -> Float[Tensor, " item"]:
    """Reduce log ratios to a level: each token's, or the mean (geometric) or sum (product) of each response.

    `alpkit.diagnostics.levels` for a flat table on the device.
    """
    match level:
        case "token":
            return log_ratio
        case "product":
            return responses.total(log_ratio)
        case _:
            return responses.mean(log_ratio)


def _weighted(tokens: TokenTable, objective: ObjectiveConfig | None) -> bool:
    """Whether weights multiplied the loss, and are known; without a configuration the column says so."""
    known = "weight" in tokens.columns
    return known and (objective is None or objective.weight.action != "none")


def _factors(tokens: TokenTable, objective: ObjectiveConfig | None) -> dict[str, Tensor]:
    numerator = "logp_perturbed" if "logp_perturbed" in tokens.columns else "logp_train"
    kinds = {
        "raw": tokens.log_ratio("logp_train", "logp_rollout"),
        "mismatch": tokens.log_ratio("logp_old", "logp_rollout"),
        "staleness": tokens.log_ratio("logp_train", "logp_old"),
        "perturbation": tokens.log_ratio("logp_perturbed", "logp_train"),
    }
    if objective is not None:
        kinds["loss"] = tokens.log_ratio(numerator, f"logp_{objective.ratio.denominator}")
    return {kind: log_ratio for kind, log_ratio in kinds.items() if log_ratio is not None}


def _of_finite_tokens(tokens: TokenTable) -> dict[str, Tensor]:
    """Measure k3 by update, by what the correction kept, and over the entropy; nothing without a finite log ratio.

    A number that is not finite, as the mean over no token is, was not computed: its key is absent.
    """
    log_ratio = tokens.log_ratio("logp_train", "logp_rollout")
    if log_ratio is None:
        return {}
    finite = log_ratio.isfinite()
    d, updates = log_ratio[finite], _Groups.of(tokens["update"][finite])
    if not len(d):
        return {}
    k3 = d.clamp(max=K3_CAP).expm1() - d
    numbers = {"kl/k3_max": updates.mean(k3).max()}
    if "keep" in tokens.columns:
        keep = tokens["keep"][finite].bool()
        numbers |= {"kl/k3_kept": _mean_where(k3, keep), "kl/k3_removed": _mean_where(k3, ~keep)}
    if "entropy" in tokens.columns:
        entropy = tokens["entropy"][finite].double().mean()
        over = torch.where(entropy > 0, k3.mean() / entropy, torch.nan)
        numbers |= {"train/entropy": entropy, "kl/k3_over_entropy": over}
    return numbers


def _mean_where(values: Float[Tensor, " tok"], marked: Bool[Tensor, " tok"]) -> Float[Tensor, ""]:
    """Average over the marked tokens; NaN for none."""
    return (values * marked).sum() / marked.sum()


def _scalars(numbers: Numbers) -> dict[str, float]:
    """Read numbers of one entry each, under the names that they came with."""
    return {name: float(value[0]) for name, value in numbers.items()}


def _read_ratios(numbers: Numbers) -> dict[str, float]:
    sketches = {n: RatioSketch(v) for n, v in numbers.items() if n.startswith("ratio/")}
    metrics = {
        f"{name}/{stat}": value
        for name, sketch in sketches.items()
        for stat, value in sketch.summary().items()
    }
    raw = sketches.get("ratio/raw/token")
    if raw is None or not raw.n:
        return metrics
    return metrics | {
        "kl/k1": -raw.sums["d"] / raw.n,
        "kl/k2": raw.sums["d2"] / raw.n / 2,
        "kl/k3": raw.k3(),
        "ratio/raw/token/width": metrics["ratio/raw/token/p98"] - metrics["ratio/raw/token/p02"],
        **_scalars({n: v for n, v in numbers.items() if n not in sketches and np.isfinite(v[0])}),
    }


def _read_engines(numbers: Numbers) -> dict[str, float]:
    old, rollout = numbers["logp_old"], numbers["logp_rollout"]
    sample = numbers["sample"].astype(np.int64)
    gap = probability_gap(old, rollout, sample) | divergences(old - rollout, sample)
    return {f"mismatch/{name}": gap[name] for name in _ENGINE_METRICS if math.isfinite(gap[name])}


def _read_receipts(numbers: Numbers, *, objective: ObjectiveConfig, draws: int) -> dict[str, float]:
    total = _scalars(numbers)
    tokens = max(total.pop("tokens"), 1.0)
    metrics = {"nonfinite/loss_logp": total.pop("nonfinite") / draws}
    if "reference_kl" in total:
        metrics["train/reference_kl"] = total.pop("reference_kl") / tokens
    if "entropy" in total:
        metrics["train/entropy_bonus"] = total.pop("entropy") / tokens
    size, sequences = total.pop("advantage"), max(total.pop("sequences"), 1.0)
    raw, cut = total.pop("weight_raw", 0.0), total.pop("weight_removed", 0.0)
    lost, gone = total.pop("advantage_removed", 0.0), total.pop("rejected_sequences", 0.0)
    metrics |= {f"receipt/{name}": value / tokens for name, value in total.items()}
    if objective.weight.action != "none":
        metrics["receipt/weight_removed"] = cut / raw if raw > 0 else 0.0
    if objective.corrected:
        metrics["receipt/advantage_removed"] = lost / size if size > 0 else 0.0
    if objective.reject:
        metrics["receipt/rejected_sequences"] = gone / sequences
    return metrics


class ReceiptWatch:
    """Reports once of each configured bound that it has touched nothing for its first steps.

    A correction that never acts makes its arm a copy of another; nobody sees it in the reward.
    """

    def __init__(self, bounds: Mapping[str, tuple[str, ...]], *, patience: int = 20) -> None:
        self._idle = dict.fromkeys(bounds, 0)
        self._receipts, self._patience = bounds, patience

    @property
    def state(self) -> dict[str, int]:
        """Idle steps of each bound that has neither acted nor been reported."""
        return dict(self._idle)

    def restore(self, state: dict[str, int]) -> None:
        """Go on from a kept `state`."""
        self._idle = dict(state)

    def count_idle(self, metrics: Mapping[str, float]) -> list[str]:
        """Take one step's metrics; returns the bounds that have now been idle for `patience` steps."""
        expired = []
        for bound in list(self._idle):
            if any(metrics.get(f"receipt/{name}", 0.0) > 0 for name in self._receipts[bound]):
                del self._idle[bound]  # it acts
                continue
            self._idle[bound] += 1
            if self._idle[bound] == self._patience:
                del self._idle[bound]
                expired.append(bound)
        return expired
