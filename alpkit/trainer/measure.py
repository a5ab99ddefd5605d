"""From a step's tokens to its metrics: every number that the trainer logs about ratios is made here.

Quantities are pooled over the step's updates before anything is computed; nothing is a mean of
micro-batch extremes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from alpkit.config import ObjectiveConfig
from alpkit.diagnostics import RatioSketch, divergences, probability_gap
from alpkit.diagnostics.sketch import K3_CAP
from alpkit.metrics import RATIO_LEVELS
from alpkit.objective import LossOutput, sketch_state
from alpkit.trainer.batches import Batch, MicroBatch

_ENGINE_METRICS = (
    *("prob_gap", "prob_gap_max", "log_correlation", "mult_prob_error"),
    *("log_ppl_diff", "ppl_ratio"),
)


@dataclass(frozen=True)
class TokenTable:
    """A step's valid tokens, flat, in the order of the updates; on the device, log-probs in nats.

    A column that was not computed for this step is absent.
    """

    columns: dict[str, Tensor]

    def __len__(self) -> int:
        return len(self.columns["token"])

    def __getitem__(self, name: str) -> Tensor:
        return self.columns[name]

    def log_ratio(self, over: str, under: str) -> Tensor | None:
        """`over` - `under` in float64 nats, or None where either was not computed."""
        if over not in self.columns or under not in self.columns:
            return None
        return self[over].double() - self[under].double()

    def host(self) -> dict[str, np.ndarray]:
        """Every column as a numpy array: for steps that are recorded or stand out."""
        return {name: values.cpu().numpy() for name, values in self.columns.items()}


def token_rows(
    update: int, micro: MicroBatch, per_token: dict[str, Tensor], version: int
) -> dict[str, Tensor]:
    """One micro-batch's valid tokens as flat columns (still on the device)."""
    valid = micro.valid
    index = valid.flatten().nonzero()[:, 0]  # the one wait for the device
    tokens, rows = len(index), valid.sum(dim=1)
    position = micro.rollout.response.long().cumsum(dim=1) - 1
    device = valid.device

    def repeat(values: Tensor) -> Tensor:
        return values.to(device).repeat_interleave(rows, output_size=tokens)

    def pick(values: Tensor) -> Tensor:
        return values.detach().flatten()[index]

    return {
        "update": torch.full((tokens,), update, device=device),
        "sample": repeat(micro.sample),
        "prompt": repeat(micro.rollout.prompt),
        "position": pick(position),
        "turn": torch.zeros_like(index),
        "token": pick(micro.rollout.tokens),
        "logp_rollout": pick(micro.rollout.logp_rollout),
        "advantage": repeat(micro.advantage),
        "reward": repeat(micro.reward),
        "policy_version": torch.full((tokens,), version, device=device),
        **{name: pick(values) for name, values in per_token.items()},
    }


def gather(parts: Sequence[dict[str, Tensor]]) -> TokenTable:
    """The updates' tokens as one table."""
    return TokenTable({name: torch.cat([part[name] for part in parts]) for name in parts[0]})


def batch_metrics(batch: Batch, group: int) -> dict[str, float]:
    """Rewards, solved groups and response lengths of a rollout."""
    groups = batch.reward.view(-1, group)
    length = batch.rollout.response.sum(dim=1).float()
    finished = [response.finish == "stop" for response in batch.responses]
    return {
        "reward/mean": batch.reward.mean().item(),
        "reward/std": batch.reward.std(correction=0).item(),
        "reward/solved_all": (groups >= 1).all(dim=1).float().mean().item(),
        "reward/solved_none": (groups <= 0).all(dim=1).float().mean().item(),
        "response/length_mean": length.mean().item(),
        "response/length_max": length.max().item(),
        "response/finished": float(np.mean(finished)),
        "nonfinite/rollout_logp": float((batch.rollout.response & ~batch.valid).sum()),
        **batch.grading,
    }


def ratio_metrics(tokens: TokenTable, objective: ObjectiveConfig) -> dict[str, float]:
    """kl/* and ratio/<kind>/<level>/<stat> of every factor that this step computed.

    Every ratio is sketched where its log-probs are; one vector for each crosses to the host.
    """
    per_level = {
        f"ratio/{kind}/{level}": _at_level(log_ratio, tokens["sample"], level)
        for kind, log_ratio in _factors(tokens, objective).items()
        for level in RATIO_LEVELS
    }
    if objective.weight.action != "none":
        weight = tokens["weight"].double()
        per_level["ratio/applied/token"] = weight[weight > 0].log()
    states = torch.stack([sketch_state(values) for values in per_level.values()]).cpu().numpy()
    sketches = {name: RatioSketch(state) for name, state in zip(per_level, states, strict=True)}
    found = {
        f"{n}/{stat}": v for n, sketch in sketches.items() for stat, v in sketch.summary().items()
    }
    raw = sketches.get("ratio/raw/token")
    if raw is not None and raw.n:
        found |= _divergences(raw, tokens)
        found["ratio/raw/token/width"] = found["ratio/raw/token/p98"] - found["ratio/raw/token/p02"]
    return found


def engine_metrics(tokens: TokenTable) -> dict[str, float]:
    """mismatch/*: how far the two engines are apart on one set of weights, beyond what their ratio says."""
    if "logp_old" not in tokens.columns:
        return {}
    names = ("logp_old", "logp_rollout", "sample")
    old, rollout, sample = (tokens[name].cpu().numpy() for name in names)
    old, rollout = old.astype(np.float64), rollout.astype(np.float64)
    gap = probability_gap(old, rollout, sample) | divergences(old - rollout, sample)
    found = {name: gap[name] for name in _ENGINE_METRICS if math.isfinite(gap[name])}
    return {f"mismatch/{name}": value for name, value in found.items()}


def _factors(tokens: TokenTable, objective: ObjectiveConfig) -> dict[str, Tensor]:
    numerator = "logp_perturbed" if "logp_perturbed" in tokens.columns else "logp_train"
    kinds = {
        "raw": tokens.log_ratio("logp_train", "logp_rollout"),
        "mismatch": tokens.log_ratio("logp_old", "logp_rollout"),
        "staleness": tokens.log_ratio("logp_train", "logp_old"),
        "perturbation": tokens.log_ratio("logp_perturbed", "logp_train"),
        "loss": tokens.log_ratio(numerator, f"logp_{objective.ratio.denominator}"),
    }
    return {kind: log_ratio for kind, log_ratio in kinds.items() if log_ratio is not None}


def _at_level(log_ratio: Tensor, sample: Tensor, level: str) -> Tensor:
    """One log ratio per token, or the mean (geometric) or sum (product) of each response."""
    if level == "token":
        return log_ratio
    _, owner, length = sample.unique(return_inverse=True, return_counts=True)
    total = log_ratio.new_zeros(len(length)).index_add(0, owner, log_ratio)
    return total if level == "product" else total / length


def _divergences(raw: RatioSketch, tokens: TokenTable) -> dict[str, float]:
    """kl/* of the unperturbed policy against the sampler, and its entropy; over finite log ratios."""
    d = tokens["logp_train"].double() - tokens["logp_rollout"].double()
    finite = d.isfinite()
    d, update = d[finite], tokens["update"][finite]
    _, owner, count = update.unique(return_inverse=True, return_counts=True)
    k3 = d.clamp(max=K3_CAP).expm1() - d
    per_update = k3.new_zeros(len(count)).index_add(0, owner, k3) / count
    entropy = tokens["entropy"][finite].double().mean()
    largest, entropy_mean = torch.stack([per_update.max(), entropy]).tolist()
    return {
        "kl/k1": -raw.sums["d"] / raw.n,
        "kl/k2": raw.sums["d2"] / raw.n / 2,
        "kl/k3": raw.k3(),
        "kl/k3_max": largest,
        "train/entropy": entropy_mean,
    }


class ReceiptWatch:
    """Says once of every configured bound that it has touched nothing for its first steps.

    A correction that never acts makes its arm a copy of another; nobody sees it in the reward.
    """

    def __init__(self, objective: ObjectiveConfig, *, patience: int = 20) -> None:
        self._idle = dict.fromkeys(objective.bounds, 0)
        self._receipts, self._patience = objective.bounds, patience

    @property
    def state(self) -> dict[str, int]:
        """Steps for which each bound that has neither acted nor been told of was idle."""
        return dict(self._idle)

    def restore(self, state: dict[str, int]) -> None:
        """Go on where `state` was kept."""
        self._idle = dict(state)

    def update(self, metrics: dict[str, float]) -> list[str]:
        """Take one step's metrics; returns the bounds that have just run out of patience."""
        found = []
        for bound in list(self._idle):
            if any(metrics.get(f"receipt/{name}", 0.0) > 0 for name in self._receipts[bound]):
                del self._idle[bound]  # it acts
                continue
            self._idle[bound] += 1
            if self._idle[bound] == self._patience:
                del self._idle[bound]
                found.append(bound)
        return found


def receipt_metrics(
    outputs: Sequence[LossOutput], objective: ObjectiveConfig, *, draws: int = 1
) -> dict[str, float]:
    """receipt/*: what the correction touched, over the whole step's valid tokens, once per draw of noise."""
    total = _summed([output.receipt for output in outputs])
    tokens = max(total.pop("tokens"), 1.0)
    found = {"nonfinite/loss_logp": total.pop("nonfinite") / draws}
    if "reference_kl" in total:
        found["train/reference_kl"] = total.pop("reference_kl") / tokens
    both, own, other = (
        total.pop(f"agreement_{name}", 0.0) for name in ("both", "only_own", "only_other")
    )
    if either := both + own + other:
        found["receipt/agreement"] = both / either
        found["receipt/agreement_only_own"] = own / tokens
        found["receipt/agreement_only_other"] = other / tokens
    size, sequences = total.pop("advantage"), max(total.pop("sequences"), 1.0)
    raw, cut = total.pop("weight_raw", 0.0), total.pop("weight_removed", 0.0)
    lost, gone = total.pop("advantage_removed", 0.0), total.pop("rejected_sequences", 0.0)
    found |= {f"receipt/{name}": value / tokens for name, value in total.items()}
    if objective.weight.action != "none":
        found["receipt/weight_removed"] = cut / raw if raw > 0 else 0.0
    if objective.corrected:
        found["receipt/advantage_removed"] = lost / size if size > 0 else 0.0
    if objective.reject:
        found["receipt/rejected_sequences"] = gone / sequences
    return found


def _summed(receipts: Sequence[dict[str, Tensor]]) -> dict[str, float]:
    """Sum of every entry over the receipts, in one transfer."""
    parts: dict[str, list[Tensor]] = {}
    for receipt in receipts:
        for name, value in receipt.items():
            parts.setdefault(name, []).append(value.double())
    sums = torch.stack([torch.stack(values).sum() for values in parts.values()])
    return dict(zip(parts, sums.tolist(), strict=True))
