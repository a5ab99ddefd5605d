"""Compute each method's gradient at a recorded step's first update.

The policy is loaded as it stood before that update (`records.replay: true`) and every token is scored
again. A method's gradient is sum_t c_t grad log pi(y_t), c_t = d loss / d log pi(y_t) from its
`policy_loss` on the trainer's own micro-batches; one backward per method and micro-batch.

Micro-batches here are the responses of one prompt each (cut further only where they exceed
hardware.micro_batch_tokens): prompts are what is drawn independently, and the trainer's own cut, made
for memory, often has a single micro-batch. Methods run in the run's own precision, the on-policy
gradient always in float32.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final, NamedTuple

import numpy as np
import torch
from torch import Tensor

from alpkit.config import ObjectiveConfig
from alpkit.config.objective import RatioConfig, SurrogateConfig
from alpkit.replay.batches import RecordedStep
from alpkit.replay.book import Gap, Row
from alpkit.replay.losses import score
from alpkit.replay.methods import Method
from alpkit.replay.policy import UPDATE, Numerator, ReplayedPolicy, Scorer

# Another machine's kernels differ in the last digits; a wrong model or noise differs in the first.
TOLERANCE: Final = {"float32": 1e-3, "bfloat16": 0.1, "float16": 0.02}
# float16 gradients need a loss scale, as in training; powers of two, so that it leaves no trace.
_HALF_SCALES: Final = (2.0**16, 2.0**12, 2.0**8, 2.0**4, 1.0)


class GradientRows(NamedTuple):
    """Rows of `Replay.gradients` and `Replay.cosines`, and how far log-probs are from the recorded."""

    gradients: list[Row]
    cosines: list[Row]
    gaps: list[Gap]


@dataclass
class _Sum:
    """A method's gradient as it adds up over micro-batches, one tensor per parameter."""

    method: Method
    loss: float = 0.0
    total: list[Tensor] = field(default_factory=list)
    squares: float = 0.0
    parts: int = 0

    def add(self, gradient: Sequence[Tensor] | None) -> None:
        """Add one micro-batch's gradient; None: it is zero."""
        self.parts += 1
        if gradient is None:
            return
        self.squares += _dot(gradient, gradient)
        if self.total:
            for whole, part in zip(self.total, gradient, strict=True):
                whole.add_(part)
        else:
            # Two parameters may share one gradient tensor; adding in place must not count it twice.
            self.total = [part.clone() for part in gradient]

    @cached_property
    def norm(self) -> float:
        """Norm of the finished sum."""
        return math.sqrt(_dot(self.total, self.total))

    @property
    def variance(self) -> float:
        """Variance of the sum, K/(K-1) sum_i |g_i - g/K|^2; NaN for K = 1."""
        count = self.parts
        if count < 2:
            return np.nan
        return max(count * self.squares - self.norm**2, 0.0) / (count - 1)

    def cosine(self, other: "_Sum") -> float:
        """Cosine of two sums; NaN where either is zero."""
        norms = self.norm * other.norm
        return _dot(self.total, other.total) / norms if norms > 0 else np.nan


def gradients(
    recorded: RecordedStep, methods: Sequence[Method], policy: ReplayedPolicy
) -> GradientRows:
    """Compute the gradients of update 0 of a recorded step, for every method and its on-policy counterpart.

    The counterpart has the method's advantages and aggregate, numerator = denominator = pi_theta and
    so all weights 1: its gradient is that of sum_t A_t log pi_theta(y_t), in float32.

    Rows: `norm` over the policy's parameters (log sigma is none of them); `cosine_on_policy` and
    `on_policy_norm`, of the counterpart; `variance` K/(K-1) sum_i |g_i - g/K|^2 over K micro-batches
    with g = sum_i g_i, the trace of the covariance of g, and `relative_variance`, divided by |g|^2; `loss`.
    """
    sums = [_Sum(method) for method in methods]
    targets = {method: _on_policy(method) for method in methods}
    references = {target: _Sum(target) for target in targets.values()}
    groups: dict[Numerator, list[_Sum]] = {}
    for total in sums:
        numerator = Numerator(total.method.perturbation, recorded.config.dtype == "float32")
        groups.setdefault(numerator, []).append(total)
    groups.setdefault(Numerator(None, True), []).extend(references.values())
    gaps = []
    for numerator, members in groups.items():
        with policy.scoring(numerator) as scorer:
            gaps += _accumulate(recorded, scorer, members)
    rows = [_row(total, references[targets[total.method]], recorded.step) for total in sums]
    cosines: list[Row] = [
        {
            "step": recorded.step,
            "method": total.method.name,
            "other": other.method.name,
            "cosine": total.cosine(other),
        }
        for total in sums
        for other in sums
    ]
    return GradientRows(rows, cosines, gaps)


def _on_policy(method: Method) -> Method:
    objective = ObjectiveConfig(
        advantage=method.objective.advantage,
        aggregate=method.objective.aggregate,
        ratio=RatioConfig(denominator="current"),
        surrogate=SurrogateConfig(kind="reinforce"),
    )
    return Method("on-policy", objective, None, False)


def _accumulate(recorded: RecordedStep, scorer: Scorer, members: Sequence[_Sum]) -> list[Gap]:
    """Add every micro-batch's gradient to each of the `members`, which share their log-probs."""
    parameters = [p for p in scorer.model.parameters() if p.requires_grad]
    draws = range(scorer.draws)
    half = recorded.config.dtype == "float16" and not scorer.numerator.in_float32
    scales = _HALF_SCALES if half else (1.0,)
    with torch.no_grad():
        scored = [_logp(recorded, scorer, draw) for draw in draws]
    slopes = [[_slopes(recorded, member, logp) for logp in scored] for member in members]
    for micro in recorded.one_prompt_each():
        at = recorded.place(micro)
        seeds = [
            [slope[at].to(scorer.device) / len(draws) for slope in per_draw] for per_draw in slopes
        ]
        if any(bool(seed.any()) for per_draw in seeds for seed in per_draw):
            forwards = [scorer.live_logp(micro, draw) for draw in draws]
            for member, per_draw in zip(members, seeds, strict=True):
                member.add(_gradient(forwards, per_draw, parameters, scales))
        else:  # a group of equal rewards: no advantage, no gradient
            for member in members:
                member.add(None)
    return _gaps(recorded, scorer, scored[0])


def _gradient(
    logps: Sequence[Tensor],
    seeds: Sequence[Tensor],
    parameters: Sequence[Tensor],
    scales: Sequence[float],
) -> tuple[Tensor, ...] | None:
    """Compute the gradient of sum(seed * logp) over the draws; None where every seed is 0.

    The backward runs at the first of `scales` at which nothing overflows, and is divided by it.
    """
    if not any(bool(seed.any()) for seed in seeds):
        return None
    for scale in scales:
        found = torch.autograd.grad(
            logps,
            parameters,
            grad_outputs=[seed * scale for seed in seeds],
            retain_graph=True,
            materialize_grads=True,
        )
        if scale == scales[-1] or all(bool(gradient.isfinite().all()) for gradient in found):
            break
    return found if scale == 1 else tuple(gradient / scale for gradient in found)


def _logp(recorded: RecordedStep, scorer: Scorer, draw: int) -> Tensor:
    """Score update 0 on the trainer's own micro-batches; log-probs as part of [batch, len]."""
    values = torch.full(recorded.batch.valid.shape, torch.nan)
    for micro in recorded.plan[UPDATE]:
        values[recorded.place(micro)] = scorer.logp(micro, draw).float().cpu()
    return values


def _slopes(recorded: RecordedStep, member: _Sum, logp: Tensor) -> Tensor:
    """Compute d loss / d log-prob of update 0, as part of [batch, len]; adds the draw's loss to `member`."""
    micros = recorded.plan[UPDATE]
    advantage = recorded.advantage(member.method.objective.advantage)
    inputs = [recorded.inputs(micro, logp, advantage) for micro in micros]
    scored = score(member.method, inputs, recorded.config.rollout.max_tokens)
    slopes = torch.zeros_like(logp)
    for micro, part in zip(micros, scored, strict=True):
        slopes[recorded.place(micro)] = part.slope
    noise = member.method.perturbation
    draws = 1 if noise is None else noise.draws
    member.loss += sum(float(part.output.loss.detach()) for part in scored) / draws
    return slopes


def _gaps(recorded: RecordedStep, scorer: Scorer, logp: Tensor) -> list[Gap]:
    """Compare `logp` with its recorded counterpart, where there is one: this noise, in the run's precision."""
    config, noise = recorded.config, scorer.numerator.perturbation
    name = "logp_train" if noise is None else "logp_perturbed"
    as_run = scorer.numerator.in_float32 == (config.dtype == "float32")
    if not as_run or noise not in (None, config.perturbation) or name not in recorded.logps:
        return []
    known = recorded.logps[name]
    parts = []
    for micro in recorded.plan[UPDATE]:
        at = recorded.place(micro)
        finite = micro.valid & known[at].isfinite()
        parts.append((logp[at] - known[at])[finite].abs().nan_to_num(nan=torch.inf))
    largest = float(torch.cat([torch.zeros(1), *parts]).max())
    return [Gap(recorded.step, name, largest, TOLERANCE[config.dtype])]


def _row(total: _Sum, reference: _Sum, step: int) -> Row:
    norm, variance = total.norm, total.variance
    return {
        "step": step,
        "method": total.method.name,
        "own": total.method.own,
        "loss": total.loss,
        "norm": norm,
        "on_policy_norm": reference.norm,
        "cosine_on_policy": total.cosine(reference),
        "variance": variance,
        "relative_variance": variance / norm**2 if norm > 0 else np.nan,
        "micro_batches": total.parts,
    }


def _dot(these: Sequence[Tensor], others: Sequence[Tensor]) -> float:
    return sum(float(a.flatten() @ b.flatten()) for a, b in zip(these, others))
