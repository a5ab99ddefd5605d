"""Probe the weight sync: one fixed set of sequences, scored by trainer and sampler after every sync.

A sampler with stale or half-replaced weights looks exactly like the phenomenon under study
(trl#5312), so the gap is logged after every sync and a gap past the engines' own precision stops the
run. The trainer scores in its own precision, as in its updates. At the start the sync itself is put to
the test with weights that were shaken on purpose (`sync_proof`): real updates are too small for a
stale tensor to show.
"""

import logging
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

import numpy as np
from transformers import PreTrainedModel

from alpkit.config.run import RolloutConfig
from alpkit.errors import RolloutError
from alpkit.policy.autocast import FLOAT32, Precision, TrainDtype
from alpkit.rollout import Sampler
from alpkit.rollout.hf import score
from alpkit.rollout.sync_proof import prove_by_movement, prove_by_weights

logger = logging.getLogger("alpkit.rollout")

Sequences = Sequence[tuple[tuple[int, ...], tuple[int, ...]]]

_PROOF_TOKENS: Final = 64
"""Tokens for the proof of a sync, which scores them once per tensor of the model: with the whole probe a large
model's start would take longer than its run, and the proof's test is exact in the number of tokens."""
# Largest healthy mean |gap|, nats per token: generous multiples of what was measured.
_FLOAT32, _HALF, _EIGHT_BIT, _FOUR_BIT = 1e-3, 0.3, 1.5, 3.0


class Gap(NamedTuple):
    """Mean and largest |log-prob difference| over the probe's tokens, nats."""

    mean: float
    max: float

    def metrics(self) -> dict[str, float]:
        return {"probe/gap_mean": self.mean, "probe/gap_max": self.max}


def default_tolerance(config: RolloutConfig, dtype: TrainDtype = "float32") -> float:
    """Give the mean gap, nats, above which the precision of engine and trainer explains it no longer."""
    return max(_of_engine(config), _FLOAT32 if dtype == "float32" else _HALF)


def _of_engine(config: RolloutConfig) -> float:
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
        self,
        sequences: Sequences,
        *,
        pad_id: int,
        temperature: float,
        tolerance: float,
        precision: Precision = FLOAT32,
        batch: int | None = None,
    ) -> None:
        self.sequences, self.pad_id = sequences, pad_id
        self.temperature, self.tolerance, self.precision = temperature, tolerance, precision
        self.batch = batch

    def gap(self, sampler: Sampler, model: PreTrainedModel) -> Gap:
        """Measure how far apart the two engines are now."""
        trainer = self._trainer(model, self.precision, self.sequences)
        difference = np.abs(trainer - _flat(sampler.score(self.sequences)))
        return Gap(float(difference.mean()), float(difference.max()))

    def check(self, sampler: Sampler, model: PreTrainedModel) -> Gap:
        """Measure the gap after a sync; `RolloutError` past the tolerance."""
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

    def prove_sync(self, sampler: Sampler, model: PreTrainedModel, seed: int) -> Gap:
        """Push shaken weights, check that they arrive, and push the real ones; returns the gap of these.

        Looks at 64 of the probe's tokens. `RolloutError` names what did not arrive; what they
        cannot show is named in the log.
        """
        if not prove_by_weights(sampler, model, seed):
            few = every_token(self.sequences, _PROOF_TOKENS)
            unseen = prove_by_movement(
                sampler,
                model,
                lambda: self._trainer(model, FLOAT32, few),
                lambda: _flat(sampler.score(few)),
                seed,
            )
            if unseen:
                logger.warning(
                    "the sync probe cannot see %d of %d tensors, whose effect on its log-probs is below the "
                    "sampler's own error: %s",
                    len(unseen),
                    len(list(model.parameters())),
                    ", ".join(unseen),
                )
        return self.check(sampler, model)

    def _trainer(
        self, model: PreTrainedModel, precision: Precision, sequences: Sequences
    ) -> np.ndarray:
        scores = score(
            model,
            sequences,
            pad_id=self.pad_id,
            temperature=self.temperature,
            precision=precision,
            batch=self.batch,
        )
        return _flat(scores)


def every_token(sequences: Sequences, tokens: int) -> Sequences:
    """Make sequences whose every token but the first is scored, `tokens` in all; long ones lose their beginning.

    The proof needs no answers, and prompts that are read without being scored would be most of its cost.
    """
    chosen = []
    for prompt, response in sequences:
        if tokens <= 0:
            break
        whole = (*prompt, *response)[-tokens - 1 :]
        chosen.append((whole[:1], whole[1:]))
        tokens -= len(whole) - 1
    return chosen


def _flat(rows: Iterable[Sequence[float]]) -> np.ndarray:
    return np.concatenate([np.asarray(row, dtype=np.float64) for row in rows])
