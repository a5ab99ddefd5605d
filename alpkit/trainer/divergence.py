"""Says that a policy has diverged: after the updates, before it reaches a sampler or a probe.

A sampler that is handed NaN looks like one whose weights are stale, and that is not what went wrong.
"""

import math
from collections.abc import Mapping

import torch

from alpkit.errors import NumericalError
from alpkit.rollout.hf import score
from alpkit.trainer.state import TrainerState


class DivergedPolicy(NumericalError):
    """The policy computes no finite number any more; `metrics` are those of its last step."""

    def __init__(self, step: int, metrics: Mapping[str, float], seen: str) -> None:
        self.metrics = dict(metrics)
        loss, norm = metrics.get("train/loss", math.nan), metrics.get("train/grad_norm", math.nan)
        super().__init__(
            f"training has diverged: {seen}",
            where=f"step {step}",
            why=f"train/loss {loss:.4g}, train/grad_norm {norm:.4g} at this step",
            fix="lower train.lr or train.grad_clip; the checkpoint before this step is kept",
        )

    def __reduce__(self) -> tuple[object, ...]:
        return NumericalError, (str(self),)


@torch.no_grad()
def refuse_divergence(state: TrainerState, step: int, metrics: Mapping[str, float]) -> None:
    """Raise `DivergedPolicy` where a weight, or a log-prob that the weights give, is not finite."""
    model = state.policy.model
    bad = [name for name, value in model.named_parameters() if not _finite(value)]
    if bad:
        raise DivergedPolicy(
            step, metrics, f"{bad[0]} and {len(bad) - 1} more hold NaN or infinity"
        )
    # Weights of 1e30 are finite still, and nothing that they compute is.
    probe = state.probe
    (row,) = score(
        model,
        probe.sequences[:1],
        pad_id=probe.pad_id,
        temperature=probe.temperature,
        precision=probe.precision,
    )
    if not all(map(math.isfinite, row)):
        raise DivergedPolicy(
            step, metrics, "the updated weights give log-probs that are not finite"
        )


def _finite(value: torch.Tensor) -> bool:
    return bool(torch.isfinite(value).all())
