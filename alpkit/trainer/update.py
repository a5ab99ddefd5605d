"""One optimizer update on one mini-batch, micro-batch by micro-batch.

The forward (with noise where the arm has it), the loss, the backward, the step. The loss is computed in
`alpkit.objective`; this file names no method.
"""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

from alpkit.objective import (
    LossOutput,
    Normalizer,
    TopTokens,
    normalizer_sums,
    policy_loss,
    whole_batch,
)
from alpkit.policy.checkpointing import recomputing
from alpkit.policy.logprobs import TokenLogprobs, packed_samples, response_logprobs
from alpkit.policy.perturbation.numerator import with_gradient_of
from alpkit.trainer.batches import MicroBatch, token_rows
from alpkit.trainer.clock import Clock
from alpkit.trainer.state import TrainerState


@dataclass(frozen=True)
class Update:
    """The results of one optimizer update: numbers on the host, tokens and receipts on the device."""

    loss: float
    grad_norm: float
    survivors: bool
    outputs: list[LossOutput]
    rows: list[dict[str, Tensor]]

    @property
    def skipped(self) -> bool:
        return not math.isfinite(self.grad_norm) or not self.survivors


class _Step(NamedTuple):
    """The numbers that an optimizer step brings to the host; `grad_norm` is from before clipping."""

    loss: float
    grad_norm: float
    survivors: bool


class _Drawn(NamedTuple):
    """One draw of the noise: log-probs, whose gradient is kept, and the loss's output."""

    scored: TokenLogprobs
    output: LossOutput


class _Accumulated(NamedTuple):
    """One micro-batch whose gradient was added: its part of the loss, its draws' outputs, its tokens."""

    loss: Tensor
    outputs: list[LossOutput]
    rows: dict[str, Tensor]


@torch.no_grad()
def with_logp_old(
    state: TrainerState, plan: Sequence[Sequence[MicroBatch]]
) -> list[list[MicroBatch]]:
    """Give every micro-batch its log pi_old: scored as the updates will be, on the sampler's weights, no noise."""
    with state.history.as_sampled():
        return [[_with_logp_old(state, micro) for micro in micros] for micros in plan]


def _with_logp_old(state: TrainerState, micro: MicroBatch) -> MicroBatch:
    scored = _logprobs(state, micro)
    return replace(micro, logp_old=scored.logp, entropy_old=scored.entropy)


def update_policy(
    state: TrainerState, micros: Sequence[MicroBatch], *, diagnose: bool, clock: Clock
) -> Update:
    """Take one optimizer step on a mini-batch; `diagnose` pays for what only diagnostics need."""
    state.rates.set(state.optimizer, step=micros[0].step, update=micros[0].update)
    normalizers = _normalizers(state, micros, clock)
    parts = [
        _accumulate(state, micro, normalizers, diagnose=diagnose, clock=clock) for micro in micros
    ]
    outputs = [output for part in parts for output in part.outputs]
    with clock("update"):
        loss = torch.stack([part.loss for part in parts]).sum()
        survivors = torch.stack([output.keep.any() for output in outputs]).any()
        taken = _step(state, loss, survivors)
    return Update(*taken, outputs, [part.rows for part in parts])


def _accumulate(
    state: TrainerState,
    micro: MicroBatch,
    normalizers: Sequence[Normalizer],
    *,
    diagnose: bool,
    clock: Clock,
) -> _Accumulated:
    """Add one micro-batch's gradient, and keep what its tokens are recorded with."""
    columns: dict[str, Tensor] = {}
    if micro.logp_old is not None:
        columns["logp_old"] = micro.logp_old
    if state.perturbation is not None and diagnose:
        with clock("clean_forward"), torch.no_grad():
            clean = _clean(state, micro)
        columns |= {"logp_train": clean.logp, "entropy": clean.entropy}
    with clock("update"):
        drawn = _backward(state, micro, normalizers)
    scored, output = drawn[0]
    if state.perturbation is None:
        columns |= {"logp_train": scored.logp, "entropy": scored.entropy}
    else:
        columns["logp_perturbed"] = scored.logp
    columns |= {"keep": output.keep, "weight": output.weight, "slope": _slope(state, scored)}
    with clock("diagnostics"):
        rows = token_rows(micro, columns)
    loss = torch.stack([draw.output.loss.detach() for draw in drawn]).mean()
    return _Accumulated(loss, [draw.output for draw in drawn], rows)


def _clean(state: TrainerState, micro: MicroBatch) -> TokenLogprobs:
    """Score without noise; in the first update of a sampler that is up to date, log pi_old is that already."""
    unmoved = micro.update == 0 and state.history.sampler_version == state.history.version
    if unmoved and micro.logp_old is not None and micro.entropy_old is not None:
        return TokenLogprobs(micro.logp_old, micro.entropy_old)
    return _logprobs(state, micro)


def _backward(
    state: TrainerState, micro: MicroBatch, normalizers: Sequence[Normalizer]
) -> list[_Drawn]:
    """Forward, loss and backward of one micro-batch, averaged over the noise's draws."""
    logp_reference = _logp_reference(state, micro)
    drawn = []
    for draw, normalizer in enumerate(normalizers):
        # Layers that are recomputed in the backward pass need their noise there too.
        with _live_noise(state, micro, draw):
            scored = _numerator(state, micro, draw)
            scored.logp.retain_grad()
            output = policy_loss(
                **vars(micro.inputs(scored.logp)),
                top=_top_tokens(micro, scored),
                config=state.config.objective,
                normalizer=normalizer,
                logp_reference=logp_reference,
                entropy=scored.entropy,
            )
            (output.loss * state.loss_scale.value / len(normalizers)).backward()
        drawn.append(_Drawn(scored, output))
    return drawn


def _live_noise(state: TrainerState, micro: MicroBatch, draw: int) -> AbstractContextManager[None]:
    """Give the noise that the gradient goes through: none where it goes through the clean policy."""
    return nullcontext() if _gradient_is_clean(state) else _noise(state, micro, draw)


def _numerator(state: TrainerState, micro: MicroBatch, draw: int) -> TokenLogprobs:
    """Give the log-probs whose ratio is clipped, with the gradient that `perturbation.gradient` names."""
    objective = state.config.objective
    candidates = None if objective.centering.kind == "none" else micro.rollout.top_ids
    scored = _logprobs(
        state, micro, entropy_gradient=objective.entropy_bonus > 0, candidates=candidates
    )
    if not _gradient_is_clean(state):
        return scored
    with torch.no_grad(), _noise(state, micro, draw):
        perturbed = _logprobs(state, micro, candidates=candidates)
    mixed = TokenLogprobs(*map(with_gradient_of, scored[:2], perturbed[:2]))
    if scored.top is None or perturbed.top is None or scored.rest is None or perturbed.rest is None:
        return mixed
    return mixed._replace(
        top=with_gradient_of(scored.top, perturbed.top),
        rest=with_gradient_of(scored.rest, perturbed.rest),
    )


def _gradient_is_clean(state: TrainerState) -> bool:
    noise = state.config.perturbation
    return noise is not None and noise.gradient == "clean"


def _top_tokens(micro: MicroBatch, scored: TokenLogprobs) -> TopTokens | None:
    """Give the sampler's likeliest tokens with both log-probs; None where they were not scored."""
    ids, logp = micro.rollout.top_ids, micro.rollout.top_logp
    if ids is None or logp is None or scored.top is None:
        return None
    return TopTokens(ids, logp, scored.top, scored.rest)


def _slope(state: TrainerState, scored: TokenLogprobs) -> Tensor:
    """Give |d loss / d log pi| of every token: the size with which it enters the gradient."""
    slope = scored.logp.grad
    if slope is None:
        return torch.zeros_like(scored.logp)
    return state.loss_scale.slope(slope).abs()


def _logprobs(
    state: TrainerState,
    micro: MicroBatch,
    model: PreTrainedModel | None = None,
    *,
    entropy_gradient: bool = False,
    candidates: Tensor | None = None,
) -> TokenLogprobs:
    """Score the responses under `model` (default: the policy), with whatever weights and noise are on now."""
    rollout, config = micro.rollout, state.config
    model = state.policy.model if model is None else model
    again = recomputing(model, config.hardware.checkpoint_layers)
    with again, state.precision.autocast(state.device):
        return response_logprobs(
            model,
            rollout.tokens,
            rollout.attention,
            rollout.response,
            temperature=config.rollout.temperature,
            chunk=config.hardware.head_chunk,
            head_float32=state.precision.head_float32,
            packing=state.packing,
            entropy_gradient=entropy_gradient,
            candidates=candidates,
        )


def _noise(state: TrainerState, micro: MicroBatch, draw: int = 0) -> AbstractContextManager[None]:
    if state.perturbation is None:
        return nullcontext()
    key = (state.config.seed, micro.step, micro.update)
    attention = micro.rollout.attention
    if state.packing is not None:
        ids = packed_samples(micro.sample, attention)
        return state.perturbation.active(key, sample=ids, draw=draw)
    return state.perturbation.active(key, sample=micro.sample, mask=attention, draw=draw)


def _logp_reference(state: TrainerState, micro: MicroBatch) -> Tensor | None:
    """Score the responses under the starting policy; None where no model of it is held."""
    if state.reference is None:
        return None
    with torch.no_grad():
        return _logprobs(state, micro, state.reference).logp


def _normalizers(
    state: TrainerState, micros: Sequence[MicroBatch], clock: Clock
) -> list[Normalizer]:
    """Give the mini-batch's denominators for each draw, so that cutting it into micro-batches changes nothing.

    Rejections that shrink them, and weights that are divided by their mean, must be known of all
    micro-batches before the first loss. Where they look at the current policy, that costs a forward for
    every draw of the noise, as each draw rejects its own tokens; else one answer serves all draws.
    """
    objective = state.config.objective

    def denominators(now: Sequence[Tensor]) -> Normalizer:
        sums = [
            normalizer_sums(**vars(micro.inputs(logp)), config=objective)
            for micro, logp in zip(micros, now, strict=True)
        ]
        return whole_batch(sums, objective, fixed_length=state.config.rollout.max_tokens)

    if "bypass" not in objective.of_whole_batch:
        # mu's log-probs stand in: no denominator looks at the current policy.
        stand_ins = [micro.rollout.logp_rollout for micro in micros]
        return [denominators(stand_ins)] * state.config.draws
    return [
        denominators([_no_grad_numerator(state, micro, draw, clock) for micro in micros])
        for draw in range(state.config.draws)
    ]


def _no_grad_numerator(state: TrainerState, micro: MicroBatch, draw: int, clock: Clock) -> Tensor:
    with clock("update"), torch.no_grad(), _noise(state, micro, draw):
        return _logprobs(state, micro).logp


def _step(state: TrainerState, loss: Tensor, survivors: Tensor) -> _Step:
    """Clip and step.

    A non-finite gradient is dropped and shows in the norm. Where nothing survived the correction the
    optimizer must not move the weights by its momentum alone.
    """
    parameters = [p for group in state.optimizer.param_groups for p in group["params"]]
    state.loss_scale.unscale(parameters)
    norm = torch.nn.utils.clip_grad_norm_(parameters, state.config.train.grad_clip)
    # The update's one wait for the device.
    numbers = torch.stack([loss.double(), norm.double(), survivors.double()]).tolist()
    taken = _Step(numbers[0], numbers[1], bool(numbers[2]))
    finite = math.isfinite(taken.grad_norm)
    if finite and taken.survivors:
        state.optimizer.step()
    state.optimizer.zero_grad(set_to_none=True)
    state.loss_scale.update(finite=finite)
    if state.perturbation is not None:
        state.perturbation.loss_scale = state.loss_scale.value
    return taken
