"""The weight-sync probe: one fixed set of sequences, scored by trainer and sampler after every sync.

A sampler with stale or half-replaced weights looks exactly like the phenomenon under study
(trl#5312), so the gap is logged after every sync and a gap past the engine's own precision stops the
run. At the start the sync itself is put to the test with weights that were shaken on purpose: real
updates are too small for a stale tensor to show.
"""

from collections.abc import Iterable, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from alpkit.config.run import RolloutConfig
from alpkit.errors import RolloutError
from alpkit.rollout import Sampler
from alpkit.rollout.hf import score
from alpkit.seeds import derive

Sequences = Sequence[tuple[tuple[int, ...], tuple[int, ...]]]

# Largest healthy mean |gap|, nats per token: generous multiples of what was measured (design §4).
_FLOAT32, _HALF, _EIGHT_BIT, _FOUR_BIT = 1e-3, 0.3, 1.5, 3.0
# Relative noise on every parameter in the start-up test, smallest first: enough to stand out of the
# engine's own gap by _CLEAR, and no more, since a deep model shaken hard is chaotic in low precision
# (30 layers, fp8 KV cache: a correct sync left 8.9 of 25.7 nats at 0.5, and 0.63 of 2.25 at 0.1).
_SHAKES = (0.1, 0.2, 0.5)
_CLEAR = 6.0


class Gap(NamedTuple):
    """Mean and largest |log-prob difference| over the probe's tokens, nats."""

    mean: float
    max: float

    def metrics(self) -> dict[str, float]:
        return {"probe/gap_mean": self.mean, "probe/gap_max": self.max}


def default_tolerance(config: RolloutConfig) -> float:
    """Mean gap past which the engine's precision is no longer an explanation, nats."""
    if config.engine == "vllm":
        if config.kv_cache_dtype != "auto":
            return _EIGHT_BIT
        return _FLOAT32 if config.dtype == "float32" else _HALF
    return {
        "float32": _FLOAT32,
        "bfloat16": _HALF,
        "float16": _HALF,
        "int8": _EIGHT_BIT,
        "int4": _FOUR_BIT,
    }[config.weights]


class SyncProbe:
    """Compares a sampler with the trainer's model on fixed sequences, at the sampling temperature."""

    def __init__(
        self, sequences: Sequences, *, pad_id: int, temperature: float, tolerance: float
    ) -> None:
        self.sequences, self.pad_id = sequences, pad_id
        self.temperature, self.tolerance = temperature, tolerance

    def gap(self, sampler: Sampler, model: PreTrainedModel) -> Gap:
        """How far apart the two engines are now."""
        difference = np.abs(self._trainer(model) - _flat(sampler.score(self.sequences)))
        return Gap(float(difference.mean()), float(difference.max()))

    def check(self, sampler: Sampler, model: PreTrainedModel) -> Gap:
        """The gap after a sync; `RolloutError` past the tolerance."""
        gap = self.gap(sampler, model)
        if not gap.mean <= self.tolerance:
            raise RolloutError(
                f"after a weight sync, sampler and trainer differ by {gap.mean:.3g} nats per token "
                f"on the probe (tolerance {self.tolerance:g})",
                why="stale or half-replaced sampler weights look exactly like the mismatch under study",
                fix="check the engine's weight sync; if the precision really is this low, "
                "raise diagnostics.probe_tolerance",
            )
        return gap

    @torch.no_grad()
    def prove_sync(self, sampler: Sampler, model: PreTrainedModel, seed: int) -> Gap:
        """Push shaken weights and see that they arrive, then restore; returns the gap of the real ones.

        Raises `RolloutError` when the shaken gap exceeds both the tolerance and half of what the
        shaking itself moved the log-probs by: then some tensor stayed what it was.
        """
        before, own = self._trainer(model), self.gap(sampler, model).mean
        for shake in _SHAKES:
            with _shaken(model, shake, seed):
                moved = float(np.abs(self._trainer(model) - before).mean())
                if moved >= _CLEAR * own or shake == _SHAKES[-1]:
                    sampler.sync(model.named_parameters())
                    shaken = self.gap(sampler, model)
                    break
        sampler.sync(model.named_parameters())
        if not shaken.mean <= max(min(self.tolerance, moved / 2), 1e-3):
            raise RolloutError(
                f"weights pushed to the sampler did not all arrive: gap {shaken.mean:.3g} nats per token "
                f"where the push moved the trainer by {moved:.3g}",
                why="a stale tensor (for example a tied LM head that was packed once) fakes importance ratios",
                fix="check the engine's weight sync before trusting any ratio",
            )
        return self.check(sampler, model)

    def _trainer(self, model: PreTrainedModel) -> np.ndarray:
        return _flat(score(model, self.sequences, pad_id=self.pad_id, temperature=self.temperature))


def _flat(rows: Iterable[Sequence[float]]) -> np.ndarray:
    return np.concatenate([np.asarray(row, dtype=np.float64) for row in rows])


@contextmanager
def _shaken(model: PreTrainedModel, shake: float, seed: int):  # type: ignore[no-untyped-def]
    """Inside, every parameter carries relative Gaussian noise; afterwards it is bit for bit itself."""
    saved = {name: value.detach().clone() for name, value in model.named_parameters()}
    for name, value in model.named_parameters():
        generator = torch.Generator().manual_seed(derive(seed, "shake", name))
        noise = torch.randn(value.shape, generator=generator, dtype=torch.float32)
        value.mul_(1 + shake * noise.to(value))
    try:
        yield
    finally:
        _restore(model, saved)


def _restore(model: PreTrainedModel, saved: dict[str, Tensor]) -> None:
    for name, value in model.named_parameters():
        value.copy_(saved[name])
