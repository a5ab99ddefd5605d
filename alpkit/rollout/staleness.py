"""Old weights: what a lagging sampler runs on, and what `logp_old` is computed with. Kept off the device."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from transformers import PreTrainedModel

State = dict[str, Tensor]


class WeightHistory:
    """Snapshots of the last `lag` + 1 versions; with lag 0 none is stored, the model is the version."""

    def __init__(self, model: PreTrainedModel, lag: int) -> None:
        self.model, self.lag = model, lag
        self.version = 0
        self.snapshots: dict[int, State] = {}
        self._remember()

    @torch.no_grad()
    def advance(self) -> None:
        """Count the model's present weights as the next version, and forget what no sampler needs."""
        self.version += 1
        self._remember()

    @property
    def sampler_version(self) -> int:
        """Version that the sampler has: `lag` behind, and the first one until there are enough."""
        return max(0, self.version - self.lag)

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Yield the named parameters of the sampler's version."""
        if self.lag == 0:
            yield from self.model.named_parameters()
        else:
            yield from self.snapshots[self.sampler_version].items()

    @contextmanager
    def as_sampled(self) -> Iterator[None]:
        """Give the model the sampler's weights inside the block, and its own afterwards."""
        if self.sampler_version == self.version:
            yield
            return
        now = _copy(self.model)
        _load(self.model, self.snapshots[self.sampler_version])
        try:
            yield
        finally:
            _load(self.model, now)

    def state(self) -> dict[str, object]:
        """Give the state that a checkpoint keeps."""
        return {"version": self.version, "snapshots": self.snapshots}

    def restore(self, version: int, snapshots: dict[int, State]) -> None:
        """Restore a checkpoint's state; the model's weights must be restored already."""
        self.version, self.snapshots = version, snapshots

    def _remember(self) -> None:
        if self.lag:
            self.snapshots[self.version] = _copy(self.model)
            for version in [v for v in self.snapshots if v < self.sampler_version]:
                del self.snapshots[version]


def _copy(model: PreTrainedModel) -> State:
    """The parameters in the host's memory, never the model's own tensors."""
    return {name: value.detach().to("cpu", copy=True) for name, value in model.named_parameters()}


@torch.no_grad()
def _load(model: PreTrainedModel, state: State) -> None:
    for name, value in model.named_parameters():
        value.copy_(state[name])
