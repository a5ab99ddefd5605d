"""From a step's tokens to its metrics: every number that the trainer logs about ratios is made here.

Quantities are pooled over the step's updates before anything is computed; nothing is a mean of
micro-batch extremes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from alpkit.batches import Batch, MicroBatch
from alpkit.config import ObjectiveConfig
from alpkit.diagnostics import ratio_summary
from alpkit.diagnostics.divergences import Level
from alpkit.objective import LossOutput

_LEVELS: tuple[Level, ...] = ("token", "geometric", "product")


@dataclass
class TokenTable:
    """A step's valid tokens, flat, in the order of the updates; float32 log-probs in nats.

    A column that was not computed for this step is absent.
    """

    columns: dict[str, np.ndarray]

    def __getitem__(self, name: str) -> np.ndarray:
        return self.columns[name]

    def log_ratio(self, over: str, under: str) -> np.ndarray | None:
        """`over` - `under` in nats, or None where either was not computed."""
        if over not in self.columns or under not in self.columns:
            return None
        difference: np.ndarray = self[over].astype(np.float64) - self[under]
        return difference


def token_rows(
    update: int, micro: MicroBatch, per_token: dict[str, Tensor], version: int
) -> dict[str, Tensor]:
    """One micro-batch's valid tokens as flat columns (still on the device)."""
    valid = micro.valid
    rows = valid.sum(dim=1)
    position = micro.rollout.response.long().cumsum(dim=1) - 1
    device = valid.device

    def repeat(values: Tensor) -> Tensor:
        return values.to(device).repeat_interleave(rows)

    return {
        "update": torch.full((int(rows.sum()),), update, device=device),
        "sample": repeat(micro.sample),
        "prompt": repeat(micro.rollout.prompt),
        "position": position[valid],
        "turn": torch.zeros_like(position[valid]),
        "token": micro.rollout.tokens[valid],
        "logp_rollout": micro.rollout.logp_rollout[valid],
        "advantage": repeat(micro.advantage),
        "reward": repeat(micro.reward),
        "policy_version": torch.full((int(rows.sum()),), version, device=device),
        **{name: values.detach()[valid] for name, values in per_token.items()},
    }


def gather(parts: Sequence[dict[str, Tensor]]) -> TokenTable:
    """The step's table on the host: the one transfer of the step."""
    return TokenTable(
        {name: torch.cat([part[name] for part in parts]).cpu().numpy() for name in parts[0]}
    )


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
    }


def divergence_metrics(tokens: TokenTable) -> dict[str, float]:
    """kl/* of the unperturbed policy against the sampler, and its entropy."""
    raw = tokens.log_ratio("logp_train", "logp_rollout")
    if raw is None:
        return {}
    k3 = np.expm1(np.minimum(raw, 700.0)) - raw
    per_update = [k3[tokens["update"] == update].mean() for update in np.unique(tokens["update"])]
    return {
        "kl/k1": float(-raw.mean()),
        "kl/k2": float((raw**2).mean() / 2),
        "kl/k3": float(k3.mean()),
        "kl/k3_max": float(max(per_update)),
        "train/entropy": float(tokens["entropy"].mean()),
    }


def ratio_metrics(tokens: TokenTable, objective: ObjectiveConfig) -> dict[str, float]:
    """ratio/<kind>/<level>/<stat> of every factor that this step computed."""
    numerator = "logp_perturbed" if "logp_perturbed" in tokens.columns else "logp_train"
    denominator = f"logp_{objective.ratio.denominator}"
    kinds = {
        "raw": tokens.log_ratio("logp_train", "logp_rollout"),
        "mismatch": tokens.log_ratio("logp_old", "logp_rollout"),
        "staleness": tokens.log_ratio("logp_train", "logp_old"),
        "perturbation": tokens.log_ratio("logp_perturbed", "logp_train"),
        "loss": tokens.log_ratio(numerator, denominator),
    }
    found: dict[str, float] = {}
    for kind, log_ratio in kinds.items():
        if log_ratio is not None:
            for level in _LEVELS:
                stats = ratio_summary(log_ratio, tokens["sample"], level=level)
                found |= {f"ratio/{kind}/{level}/{stat}": v for stat, v in stats.items()}
    if objective.weight.action != "none":
        kept = tokens["weight"] > 0
        if kept.any():
            log_weight = np.log(tokens["weight"][kept].astype(np.float64))
            stats = ratio_summary(log_weight, tokens["sample"][kept], level="token")
            found |= {f"ratio/applied/token/{stat}": v for stat, v in stats.items()}
    if "ratio/raw/token/p98" in found:
        found["ratio/raw/token/width"] = found["ratio/raw/token/p98"] - found["ratio/raw/token/p02"]
    return found


class ReceiptWatch:
    """Says once of every configured bound that it has touched nothing for its first steps.

    A correction that never acts makes its arm a copy of another; nobody sees it in the reward.
    """

    def __init__(self, objective: ObjectiveConfig, *, patience: int = 20) -> None:
        self._idle = dict.fromkeys(objective.bounds, 0)
        self._receipts, self._patience = objective.bounds, patience

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


def receipt_metrics(outputs: Sequence[LossOutput], objective: ObjectiveConfig) -> dict[str, float]:
    """receipt/*: what the correction touched, over the whole step's valid tokens."""
    total: dict[str, float] = {}
    for output in outputs:
        for name, value in output.receipt.items():
            total[name] = total.get(name, 0.0) + float(value)
    tokens = max(total.pop("tokens"), 1.0)
    found = {"nonfinite/loss_logp": total.pop("nonfinite")}
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
