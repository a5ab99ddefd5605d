"""Measure a perturbation's noise before anything is trained, for `alpkit plan --probe`.

size = probe_noise(config)         # loads the model and starts its sampler; writes nothing
"""

import tempfile
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from alpkit.config import RunConfig
from alpkit.diagnostics.noise_size import NoiseSize
from alpkit.policy.logprobs import response_logprobs
from alpkit.policy.perturbation import LayerwisePerturbation
from alpkit.rollout import Rollout
from alpkit.trainer.noise_watch import places
from alpkit.trainer.state import (
    PROBE_ITEMS,
    TrainerState,
    match_sigma,
    probe_batch,
    probe_requests,
    set_up,
)

_DRAWS = 8


def probe_noise(config: RunConfig) -> NoiseSize | None:
    """Measure the noise on one response of the sampler to each of 64 held-out items; None without noise.

    A sigma that is to be matched is matched first; a schedule is left aside. Over the denominator `old`
    the ratio has no spread before training, so that only noise that is too large can be told.
    """
    if config.perturbation is None:
        return None
    items = min(PROBE_ITEMS, config.eval.items)
    few = config.model_copy(update={"eval": config.eval.model_copy(update={"items": items})})
    with tempfile.TemporaryDirectory() as folder:
        state = set_up(few, Path(folder))
        try:
            match_sigma(state)
            return None if state.perturbation is None else _measure(state, state.perturbation)
        finally:
            state.close()


@torch.no_grad()
def _measure(state: TrainerState, noise: LayerwisePerturbation) -> NoiseSize:
    rollout = state.config.rollout
    requests = probe_requests(state)
    responses = state.sampler.generate(
        requests, max_tokens=state.config.turn_tokens, temperature=rollout.temperature
    )
    batch = probe_batch(state, requests, responses)
    clean = _logp(state, batch)
    noise.at_step(None)
    moved = []
    for draw in range(_DRAWS):
        with noise.active((0, 0, draw), mask=batch.attention):
            moved.append(_logp(state, batch) - clean)
    return NoiseSize(
        to_rms=places(noise.metrics()),
        perturbation=_spread(torch.cat(moved)),
        ratio=_spread(clean - batch.logp_rollout[batch.response].double())
        if state.config.objective.ratio.denominator == "rollout"
        else 0.0,
    )


def _logp(state: TrainerState, batch: Rollout) -> Float[Tensor, " tok"]:
    """Response log-probs in the trainer's own precision, with whatever noise is on."""
    with state.precision.autocast(state.device):
        scored = response_logprobs(
            state.policy.model,
            batch.tokens,
            batch.attention,
            batch.response,
            temperature=state.config.rollout.temperature,
            head_float32=state.precision.head_float32,
        )
    return scored.logp[batch.response].double()


def _spread(values: Float[Tensor, " tok"]) -> float:
    finite = values[values.isfinite()]
    return float(finite.std(correction=0)) if len(finite) else 0.0
