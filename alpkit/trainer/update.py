"""One optimizer update on one mini-batch, micro-batch by micro-batch.

The forward (with noise where the arm has it), the loss, the backward, the step. What the loss is, is
`alpkit.objective`'s business; this file names no method.
"""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from alpkit.objective import (
    LossOutput,
    Normalizer,
    normalizer_sums,
    policy_loss,
    whole_batch,
)
from alpkit.policy.logprobs import TokenLogprobs, response_logprobs
from alpkit.policy.perturbation.numerator import with_gradient_of
from alpkit.trainer.batches import MicroBatch
from alpkit.trainer.clock import Clock
from alpkit.trainer.measure import token_rows
from alpkit.trainer.state import Run


@dataclass(frozen=True)
class Place:
    """Where in the run an update stands, and whether this step pays for diagnostics."""

    run: Run
    step: int
    update: int
    diagnose: bool
    clock: Clock


@dataclass(frozen=True)
class Update:
    """What one optimizer update left behind."""

    loss: float
    grad_norm: float
    survivors: bool
    outputs: list[LossOutput]
    rows: list[dict[str, Tensor]]

    @property
    def skipped(self) -> bool:
        return not math.isfinite(self.grad_norm) or not self.survivors


@torch.no_grad()
def logp_old(run: Run, plan: Sequence[Sequence[MicroBatch]]) -> dict[int, Tensor]:
    """log pi_old of every micro-batch, by its first sample: same cut as the updates, no noise."""
    with run.history.as_sampled():
        return {
            int(micro.sample[0]): _logprobs(run, micro).logp for micros in plan for micro in micros
        }


def update_policy(place: Place, micros: Sequence[MicroBatch], old: dict[int, Tensor]) -> Update:
    """Take one optimizer step; `old` is `logp_old`'s answer, empty where nothing needs it."""
    run, clock = place.run, place.clock
    normalizers = _normalizers(place, micros, old)
    outputs, rows, losses = [], [], []
    for micro in micros:
        reference = old.get(int(micro.sample[0]))
        per_token = {} if reference is None else {"logp_old": reference}
        if run.perturbation is not None and place.diagnose:
            with clock("clean_forward"), torch.no_grad():
                clean = _logprobs(run, micro)
                per_token |= {"logp_train": clean.logp, "entropy": clean.entropy}
        with clock("update"):
            drawn = _backward(place, micro, reference, normalizers)
        scored, output = drawn[0]
        if run.perturbation is None:
            per_token |= {"logp_train": scored.logp, "entropy": scored.entropy}
        else:
            per_token["logp_perturbed"] = scored.logp
        per_token |= {"keep": output.keep, "weight": output.weight, "slope": _slope(scored)}
        with clock("diagnostics"):
            rows.append(token_rows(place.update, micro, per_token, micro.rollout.policy_version))
        outputs += [output for _, output in drawn]
        losses.append(torch.stack([output.loss.detach() for _, output in drawn]).mean())
    with clock("update"):
        survivors = bool(torch.stack([output.keep.any() for output in outputs]).any())
        grad_norm = _apply(run, skip=not survivors)
    return Update(float(torch.stack(losses).sum()), grad_norm, survivors, outputs, rows)


def _backward(
    place: Place, micro: MicroBatch, reference: Tensor | None, normalizers: Sequence[Normalizer]
) -> list[tuple[TokenLogprobs, LossOutput]]:
    """Forward, loss and backward of one micro-batch, averaged over the noise's draws."""
    run = place.run
    start = _logp_reference(run, micro)
    drawn = []
    for draw, normalizer in enumerate(normalizers):
        # Layers that are recomputed in the backward pass need their noise there too.
        with _live_noise(place, micro, draw):
            scored = _numerator(place, micro, draw)
            scored.logp.retain_grad()
            output = policy_loss(
                logp=scored.logp,
                logp_old=reference,
                logp_rollout=micro.rollout.logp_rollout,
                mask=micro.valid,
                advantage=micro.advantage.to(run.device),
                config=run.config.objective,
                normalizer=normalizer,
                logp_reference=start,
            )
            (output.loss / len(normalizers)).backward()
        drawn.append((scored, output))
    return drawn


def _live_noise(place: Place, micro: MicroBatch, draw: int) -> AbstractContextManager[None]:
    """The noise that the gradient goes through: none where it goes through the clean policy."""
    return nullcontext() if _gradient_is_clean(place.run) else _noise(place, micro, draw)


def _numerator(place: Place, micro: MicroBatch, draw: int) -> TokenLogprobs:
    """Log-probs whose ratio is clipped, with the gradient that `perturbation.gradient` names."""
    scored = _logprobs(place.run, micro)
    if not _gradient_is_clean(place.run):
        return scored
    with torch.no_grad(), _noise(place, micro, draw):
        perturbed = _logprobs(place.run, micro)
    return TokenLogprobs(with_gradient_of(scored.logp, perturbed.logp), perturbed.entropy)


def _gradient_is_clean(run: Run) -> bool:
    noise = run.config.perturbation
    return noise is not None and noise.gradient == "clean"


def _slope(scored: TokenLogprobs) -> Tensor:
    """|d loss / d log pi| of every token: the size with which it enters the gradient."""
    slope = scored.logp.grad
    return torch.zeros_like(scored.logp) if slope is None else slope.abs()


def _logprobs(run: Run, micro: MicroBatch, model: PreTrainedModel | None = None) -> TokenLogprobs:
    """Response log-probs of `model` (the policy) under whatever weights and noise are on now."""
    rollout, config = micro.rollout, run.config
    with torch.autocast(run.device.type, torch.bfloat16, enabled=config.dtype == "bfloat16"):
        return response_logprobs(
            run.policy.model if model is None else model,
            rollout.tokens,
            rollout.attention,
            rollout.response,
            temperature=config.rollout.temperature,
            chunk=config.train.head_chunk,
        )


def _noise(place: Place, micro: MicroBatch, draw: int = 0) -> AbstractContextManager[None]:
    run = place.run
    if run.perturbation is None:
        return nullcontext()
    key = (run.config.seed, place.step, place.update)
    return run.perturbation.active(
        key, sample=micro.sample, mask=micro.rollout.attention, draw=draw
    )


def _logp_reference(run: Run, micro: MicroBatch) -> Tensor | None:
    """Log-probs of the policy that training started from, or None where no model of it is held."""
    if run.reference is None:
        return None
    with torch.no_grad():
        return _logprobs(run, micro, run.reference).logp


def _normalizers(
    place: Place, micros: Sequence[MicroBatch], old: dict[int, Tensor]
) -> list[Normalizer]:
    """Each draw's denominators of the mini-batch, so that cutting it into micro-batches changes nothing.

    Rejections that shrink them, and weights that are divided by their mean, must be known of all
    micro-batches before the first loss. Where they look at the current policy, that costs a forward for
    every draw of the noise, as each draw rejects its own tokens; else one answer serves all draws.
    """
    run, objective = place.run, place.run.config.objective

    def denominators(now: Sequence[Tensor | None]) -> Normalizer:
        sums = [
            normalizer_sums(
                logp=logp,
                logp_old=old.get(int(micro.sample[0])),
                logp_rollout=micro.rollout.logp_rollout,
                mask=micro.valid,
                advantage=micro.advantage.to(run.device),
                config=objective,
            )
            for micro, logp in zip(micros, now, strict=True)
        ]
        return whole_batch(sums, objective, fixed_length=run.config.rollout.max_tokens)

    if "bypass" not in objective.of_whole_batch:
        return [denominators([None] * len(micros))] * run.config.draws
    return [
        denominators([_no_grad_numerator(place, micro, draw) for micro in micros])
        for draw in range(run.config.draws)
    ]


def _no_grad_numerator(place: Place, micro: MicroBatch, draw: int) -> Tensor:
    with place.clock("update"), torch.no_grad(), _noise(place, micro, draw):
        return _logprobs(place.run, micro).logp


def _apply(run: Run, *, skip: bool) -> float:
    """Clip and step; returns the norm before clipping.

    A non-finite gradient is dropped and shows in the norm. `skip`: nothing survived the correction, and
    the optimizer's momentum must not move the weights in its stead.
    """
    parameters = [p for group in run.optimizer.param_groups for p in group["params"]]
    norm = float(torch.nn.utils.clip_grad_norm_(parameters, run.config.train.grad_clip))
    if math.isfinite(norm) and not skip:
        run.optimizer.step()
    run.optimizer.zero_grad(set_to_none=True)
    return norm
