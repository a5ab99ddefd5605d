"""Load the policy as it stood before a recorded step, and score under a method's noise."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

from alpkit.config import PerturbationConfig, RunConfig
from alpkit.policy.attention import Packing, packing_of
from alpkit.policy.autocast import FLOAT32, Precision
from alpkit.policy.loading import load_policy
from alpkit.policy.logprobs import packed_samples, response_logprobs
from alpkit.policy.perturbation import LayerwisePerturbation
from alpkit.runs.checkpoint import load_checkpoint
from alpkit.trainer.batches import MicroBatch

UPDATE: Final = 0
"""The update whose weights were kept: the step's first."""


class Numerator(NamedTuple):
    """The log-probs that a gradient is of: under which noise, in float32 or the run's precision."""

    perturbation: PerturbationConfig | None
    in_float32: bool


@dataclass(frozen=True)
class Scorer:
    """The policy under one numerator; `draws` is how often its noise is drawn (1 without noise)."""

    model: PreTrainedModel
    config: RunConfig
    step: int
    packing: Packing | None
    numerator: Numerator
    noise: LayerwisePerturbation | None

    @property
    def draws(self) -> int:
        return 1 if self.noise is None else self.noise.config.draws

    @property
    def device(self) -> torch.device:
        device: torch.device = next(self.model.parameters()).device
        return device

    def logp(self, micro: MicroBatch, draw: int) -> Tensor:
        """Compute response log-probs [rows, len], nats, with gradient; the noise has the run's keys."""
        rollout, config = micro.rollout.to(self.device), self.config
        in_float32 = self.numerator.in_float32
        precision = FLOAT32 if in_float32 else Precision(config.dtype, config.head)
        with precision.autocast(self.device), self._noise(micro, rollout.attention, draw):
            return response_logprobs(
                self.model,
                rollout.tokens,
                rollout.attention,
                rollout.response,
                temperature=config.rollout.temperature,
                chunk=config.hardware.head_chunk,
                head_float32=precision.head_float32,
                packing=self.packing,
            ).logp

    def live_logp(self, micro: MicroBatch, draw: int) -> Tensor:
        """Compute the log-probs that the gradient goes through: the clean policy's where the method says so."""
        noise = self.numerator.perturbation
        if noise is not None and noise.gradient == "clean":
            return replace(self, noise=None).logp(micro, draw)
        return self.logp(micro, draw)

    def _noise(
        self, micro: MicroBatch, attention: Tensor, draw: int
    ) -> AbstractContextManager[None]:
        if self.noise is None:
            return nullcontext()
        key = (self.config.seed, self.step, UPDATE)
        if self.packing is not None:
            ids = packed_samples(micro.sample, attention)
            return self.noise.active(key, sample=ids, draw=draw)
        return self.noise.active(key, sample=micro.sample, mask=attention, draw=draw)


@dataclass(frozen=True)
class ReplayedPolicy:
    """The run's policy with a recorded step's weights, and its log sigma then (None: it had no noise)."""

    model: PreTrainedModel
    log_sigma: Tensor | None
    config: RunConfig
    step: int
    packing: Packing | None

    @contextmanager
    def scoring(self, numerator: Numerator) -> Iterator[Scorer]:
        """Score under `numerator`: the run's own noise at the sigma of that step, any other at its start."""
        if numerator.perturbation is None:
            yield Scorer(self.model, self.config, self.step, self.packing, numerator, None)
            return
        noise = LayerwisePerturbation(self.model, numerator.perturbation)
        try:
            noise.at_step(self.step)
            if numerator.perturbation == self.config.perturbation and self.log_sigma is not None:
                with torch.no_grad():
                    noise.log_sigma.copy_(self.log_sigma)
            yield Scorer(self.model, self.config, self.step, self.packing, numerator, noise)
        finally:
            noise.remove()


def load_replayed(checkpoint: Path, config: RunConfig, step: int) -> ReplayedPolicy:
    """Load the run's policy with the weights of `checkpoint`, on the GPU where there is one."""
    model = load_policy(config.model, revision=config.revision).model
    state = load_checkpoint(checkpoint, model)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    packing = packing_of(model, config.hardware)
    return ReplayedPolicy(model, state["log_sigma"], config, step, packing)


def load_given(folder: Path, config: RunConfig, step: int) -> ReplayedPolicy:
    """Load a model that somebody else saved, as the policy from before `step`, on the GPU where there is one."""
    model = load_policy(str(folder)).model
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    return ReplayedPolicy(model, None, config, step, packing_of(model, config.hardware))
