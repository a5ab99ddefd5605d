"""Log-prob and entropy from logits that are never kept: the backward pass forms them again.

Chunk by chunk, one pass over the logits gives the log-sum-exp, the token's log-prob and the entropy; the
backward turns the logits, formed again in place, into their own gradient. Keeps one number a token beside
what comes in. Not here: noise at the logits, caps and autocast, which take the ordinary way (`logprobs`).
"""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel


class HeadLogprobs(NamedTuple):
    """Nats; `entropy` has no gradient."""

    logp: Float[Tensor, " tok"]
    entropy: Float[Tensor, " tok"]


def recomputed_logprobs(
    hidden: Float[Tensor, "tok hidden"],
    weight: Float[Tensor, "vocab hidden"],
    target: Int[Tensor, " tok"],
    *,
    scale: float,
    chunk: int,
) -> HeadLogprobs:
    """Log-probs of `target` under softmax(scale * hidden @ weight.T), in the dtype that comes in."""
    return HeadLogprobs(*_Head.apply(hidden, weight, target, scale, chunk))  # type: ignore[no-untyped-call]


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
        ctx: Any, hidden: Tensor, weight: Tensor, target: Tensor, scale: float, chunk: int
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
        ctx.save_for_backward(hidden, weight, target, normalizer)
        ctx.scale, ctx.chunk = scale, chunk
        ctx.mark_non_differentiable(entropy)
        return logp, entropy

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        hidden, weight, target, normalizer = ctx.saved_tensors
        grad = grads[0] if ctx.scale == 1 else grads[0] * ctx.scale
        wants_hidden, wants_weight = ctx.needs_input_grad[:2]
        to_hidden = torch.empty_like(hidden) if wants_hidden else None
        to_weight = torch.zeros_like(weight) if wants_weight else None
        room = hidden.new_empty(min(ctx.chunk, len(hidden)), len(weight))
        for start in range(0, len(hidden), ctx.chunk):
            at = slice(start, start + ctx.chunk)
            # d logp / d logits = onehot - softmax, by the token's gradient; in the logits' own memory.
            logits = _logits(hidden[at], weight, ctx.scale, room)
            slope = logits.sub_(normalizer[at, None]).exp_()
            slope.mul_(-grad[at, None])
            slope.scatter_add_(-1, target[at, None], grad[at, None])
            if to_hidden is not None:
                torch.mm(slope, weight, out=to_hidden[at])
            if to_weight is not None:
                to_weight.addmm_(slope.T, hidden[at])
        return to_hidden, to_weight, None, None, None
