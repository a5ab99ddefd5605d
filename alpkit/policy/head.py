"""Log-prob and entropy from logits that are never kept: the backward pass forms them again.

Chunk by chunk, one pass over the logits gives the log-sum-exp, the token's log-prob and the entropy; the
backward turns the logits, formed again in place, into their own gradient. Keeps one number a token beside
what comes in, two where the entropy has a gradient. Not here: noise at the logits, caps and autocast, which
take the ordinary way (`logprobs`).
"""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel


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


def _logits(hidden: Tensor, weight: Tensor, scale: float, room: Tensor) -> Tensor:
    """Logits in `room`, whose memory all chunks share: on a CPU, fresh pages cost as much as the sums."""
    logits = torch.mm(hidden, weight.T, out=room[: len(hidden)])
    return logits if scale == 1 else logits.mul_(scale)


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
        room = hidden.new_empty(2, min(chunk, len(hidden)), len(weight))
        for start in range(0, len(hidden), chunk):
            at = slice(start, start + chunk)
            logits = _logits(hidden[at], weight, scale, room[0])
            normalizer[at] = logits.logsumexp(dim=-1)
            logp[at] = logits.gather(-1, target[at, None])[:, 0] - normalizer[at]
            # Entropy is the normaliser less the mean logit.
            chance = torch.sub(logits, normalizer[at, None], out=room[1, : len(logits)]).exp_()
            entropy[at] = normalizer[at] - torch.linalg.vecdot(chance, logits)
        kept = (entropy,) if entropy_gradient else ()
        ctx.save_for_backward(hidden, weight, target, normalizer, *kept)
        ctx.scale, ctx.chunk = scale, chunk
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
        to_hidden = torch.empty_like(hidden) if wants_hidden else None
        to_weight = torch.zeros_like(weight) if wants_weight else None
        room = hidden.new_empty(1 + len(entropy), min(ctx.chunk, len(hidden)), len(weight))
        for start in range(0, len(hidden), ctx.chunk):
            at = slice(start, start + ctx.chunk)
            # d logp / d logits = onehot - softmax, by the token's gradient; in the logits' own memory.
            logits = _logits(hidden[at], weight, ctx.scale, room[0])
            log_chance = logits.sub_(normalizer[at, None])
            if entropy:
                # d entropy / d logits = -softmax * (log softmax + entropy).
                by_entropy = (grads[1][at] * ctx.scale)[:, None]
                chance = torch.exp(log_chance, out=room[1, : len(logits)])
                factor = log_chance.add_(entropy[0][at, None]).mul_(by_entropy).add_(grad[at, None])
                slope = factor.mul_(chance).neg_()
            else:
                slope = log_chance.exp_().mul_(-grad[at, None])
            slope.scatter_add_(-1, target[at, None], grad[at, None])
            if to_hidden is not None:
                torch.mm(slope, weight, out=to_hidden[at])
            if to_weight is not None:
                to_weight.addmm_(slope.T, hidden[at])
        return to_hidden, to_weight, None, None, None, None
