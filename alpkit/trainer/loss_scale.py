"""Scale the loss under `dtype: float16`: without it small gradients would be 0 in half precision.

The loss is multiplied before the backward, the gradient divided after it; powers of two, so that both
are exact. An overflow skips the update and halves the scale; a long run without one doubles it. Not
torch's GradScaler: it demands a step after every backward, and an update may have no survivor.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor


class LossScale:
    """The scale now, and when it changes; `enabled=False` is a scale of 1 that never does."""

    def __init__(
        self,
        *,
        enabled: bool,
        start: float = 2.0**16,
        patience: int = 2000,
        largest: float = 2.0**24,
    ) -> None:
        self.enabled, self.patience, self.largest = enabled, patience, largest
        self.value = start if enabled else 1.0
        self._clean = 0
        self._overflows = 0

    def unscale(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Divide every gradient by the scale, in place."""
        if self.enabled:
            gradients = [p.grad for p in parameters if p.grad is not None]
            torch._foreach_mul_(gradients, 1 / self.value)

    def slope(self, gradient: Tensor) -> Tensor:
        """Undo the scale on a gradient that was seen inside of the backward."""
        return gradient / self.value if self.enabled else gradient

    def update(self, *, finite: bool) -> None:
        """Learn from one update's gradient: halve at an overflow, double after `patience` clean ones."""
        if not self.enabled:
            return
        if not finite:
            self._overflows += 1
            self.value, self._clean = max(self.value / 2, 1.0), 0
            return
        self._clean += 1
        if self._clean == self.patience:
            self.value, self._clean = min(self.value * 2, self.largest), 0

    def metrics(self) -> dict[str, float]:
        """Return train/loss_scale and train/overflows since the last call; empty where there is no scale."""
        if not self.enabled:
            return {}
        overflows, self._overflows = self._overflows, 0
        return {"train/loss_scale": self.value, "train/overflows": float(overflows)}

    def state(self) -> Sequence[float]:
        """Give the state that a checkpoint keeps."""
        return (self.value, self._clean)

    def restore(self, state: Sequence[float]) -> None:
        """Go on where `state` was kept."""
        self.value, self._clean = float(state[0]), int(state[1])
