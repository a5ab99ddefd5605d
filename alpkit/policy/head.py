"""Log-prob and entropy from logits of which no more than one chunk is ever there.

Chunk by chunk, one pass over the logits gives the log-sum-exp, the token's log-prob and the entropy; the
backward turns the logits into their own gradient, in place. Where there are several chunks it forms them
again; the logits of a single one are kept for it. Where the entropy has a gradient, one more number a token
is kept. Not here: noise at the logits, caps and autocast, which
take the ordinary way (`logprobs`).
"""

from typing import Any, Final, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

_CACHED: Final = 2**20
"""Logits that stay in a CPU's cache from one pass over them to the next."""


class HeadLogprobs(NamedTuple):
    """Nats; `entropy` has a gradient only where it was asked for."""

    logp: Float[Tensor, " tok"]
    entropy: Float[Tensor, " tok"]


def recomputed_logprobs(
    hidden: Float[Tensor, "tok hidden"],
    weight: Float[Tensor, "vocab hidden"],
    target: Int[Tensor, " tok"],
    *,
    scale: float,
    chunk: int,
    entropy_gradient: bool = False,
) -> HeadLogprobs:
    """Log-probs of `target` under softmax(scale * hidden @ weight.T), in the dtype that comes in."""
    made = _Head.apply(hidden, weight, target, scale, chunk, entropy_gradient)  # type: ignore[no-untyped-call]
    return HeadLogprobs(*made)


def plain_head(model: PreTrainedModel) -> Tensor | None:
    """The head's weight, where logits are nothing but its product with the last states; else None."""
    head = model.get_output_embeddings()
    plain = type(head) is nn.Linear and head.bias is None
    hooked = bool(head._forward_hooks or head._forward_pre_hooks)
    return head.weight if plain and not hooked else None


def _rows_at_once(logits: Tensor) -> int:
    """Rows of logits that a CPU's cache holds; a GPU takes all of them."""
    return max(1, len(logits) if logits.is_cuda else _CACHED // logits.shape[1])


def _logits(hidden: Tensor, weight: Tensor, scale: float, room: Tensor) -> Tensor:
    """Logits in `room`, whose memory all chunks share: on a CPU, fresh pages cost as much as the sums."""
    logits = torch.mm(hidden, weight.T, out=room[: len(hidden)])
    return logits if scale == 1 else logits.mul_(scale)


def _slope(logits: Tensor, normalizer: Tensor, target: Tensor, grad: Tensor) -> Tensor:
    """Turn logits into their own gradient, (onehot - softmax) by the token's, in their memory."""
    rows = _rows_at_once(logits)
    for part, norm, own in zip(
        logits.split(rows), normalizer.split(rows), grad.split(rows), strict=True
    ):
        part.sub_(norm[:, None]).exp_().mul_(-own[:, None])
    return logits.scatter_add_(-1, target[:, None], grad[:, None])


def _slope_with_entropy(
    logits: Tensor,
    normalizer: Tensor,
    entropy: Tensor,
    target: Tensor,
    grad: Tensor,
    by_entropy: Tensor,
    spare: Tensor,
) -> Tensor:
    """Add the entropy's part, -softmax (log softmax + entropy) by its gradient; writes over logits and spare."""
    log_chance = logits.sub_(normalizer[:, None])
    chance = torch.exp(log_chance, out=spare[: len(logits)])
    factor = log_chance.add_(entropy[:, None]).mul_(by_entropy[:, None]).add_(grad[:, None])
    slope = factor.mul_(chance).neg_()
    return slope.scatter_add_(-1, target[:, None], grad[:, None])


class _Head(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        target: Tensor,
        scale: float,
        chunk: int,
        entropy_gradient: bool,
    ) -> tuple[Tensor, Tensor]:
        logp, normalizer, entropy = (hidden.new_empty(len(hidden)) for _ in range(3))
        logits = room = hidden.new_empty(min(chunk, len(hidden)), len(weight))
        rows = _rows_at_once(room)
        spare = torch.empty_like(room[:rows])
        for start in range(0, len(hidden), chunk):
            at = slice(start, start + chunk)
            logits = _logits(hidden[at], weight, scale, room)
            for first in range(0, len(logits), rows):
                part = logits[first : first + rows]
                to = slice(start + first, start + first + len(part))
                normalizer[to] = part.logsumexp(dim=-1)
                # Entropy is the normaliser less the mean logit.
                chance = torch.sub(part, normalizer[to, None], out=spare[: len(part)]).exp_()
                entropy[to] = normalizer[to] - torch.linalg.vecdot(chance, part)
            logp[at] = logits.gather(-1, target[at, None])[:, 0] - normalizer[at]
        kept = (entropy,) if entropy_gradient else ()
        ctx.save_for_backward(hidden, weight, target, normalizer, *kept)
        ctx.scale, ctx.chunk = scale, chunk
        # The logits of a single chunk wait for the backward pass, which writes over them.
        ctx.logits = logits if len(hidden) <= chunk and any(ctx.needs_input_grad) else None
        if not entropy_gradient:
            ctx.mark_non_differentiable(entropy)
        return logp, entropy

    @staticmethod
    def backward(
        ctx: Any, *grads: Tensor
    ) -> tuple[Tensor | None, Tensor | None, None, None, None, None]:
        hidden, weight, target, normalizer, *entropy = ctx.saved_tensors
        grad = grads[0] if ctx.scale == 1 else grads[0] * ctx.scale
        wants_hidden, wants_weight = ctx.needs_input_grad[:2]
        kept, ctx.logits = ctx.logits, None
        to_hidden = torch.empty_like(hidden) if wants_hidden else None
        to_weight = torch.zeros_like(weight) if wants_weight else None
        room = kept
        if room is None:
            room = hidden.new_empty(min(ctx.chunk, len(hidden)), len(weight))
        spare = torch.empty_like(room) if entropy else None
        for start in range(0, len(hidden), ctx.chunk):
            at = slice(start, start + ctx.chunk)
            logits = _logits(hidden[at], weight, ctx.scale, room) if kept is None else kept
            if spare is None:
                slope = _slope(logits, normalizer[at], target[at], grad[at])
            else:
                by_entropy = grads[1][at] * ctx.scale
                slope = _slope_with_entropy(
                    logits, normalizer[at], entropy[0][at], target[at], grad[at], by_entropy, spare
                )
            if to_hidden is not None:
                torch.mm(slope, weight, out=to_hidden[at])
            if to_weight is not None:
                to_weight.addmm_(slope.T, hidden[at])
        return to_hidden, to_weight, None, None, None, None
