"""Draw keyed noise, add it, and draw it again in backward instead of storing it.

One stream per (key, draw, site, layer, sample id), drawn in token order over the sample's real
tokens, so that padding, packing, micro-batch split, arm and rank do not change it. At the logits,
where only some tokens pass the LM head, one stream per token instead: (..., sample id, place).
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from alpkit.policy.perturbation.gate import HeadTokens
from alpkit.policy.perturbation.token_layout import TokenLayout
from alpkit.seeds import derive


@dataclass(frozen=True)
class NoiseStream:
    """Unit-variance noise of one site and layer; drawing twice gives the same numbers.

    `key` names the draw; `sign` -1 is the other member of an antithetic pair; `head`, at the logits,
    says which tokens the rows are (None: the whole grid).
    """

    key: tuple[int, ...]
    site: str
    layer: int
    layout: TokenLayout
    distribution: str
    sign: int = 1
    head: HeadTokens | None = None

    def draw(self, like: Float[Tensor, "*tokens hidden"]) -> Float[Tensor, "*tokens hidden"]:
        """Draw noise of `like`'s shape and device, float32 (float64 for float64); 0 at padding."""
        dtype = torch.promote_types(like.dtype, torch.float32)
        per_token = self.site == "logits"
        allocate = torch.zeros if per_token or not self.layout.full else torch.empty
        noise = allocate(like.shape, dtype=dtype, device=like.device)
        generator = torch.Generator(device=like.device)
        if per_token:
            self._fill_tokens(noise.view(-1, like.shape[-1]), generator)
        else:
            self._fill_samples(noise, generator)
        return noise.neg_() if self.sign < 0 else noise

    def _fill_samples(self, noise: Tensor, generator: torch.Generator) -> None:
        for part in self.layout.samples:
            self._seed(generator, part.sample)
            if part.columns is None:
                _fill(noise[part.row, part.start : part.stop], self.distribution, generator)
            else:
                drawn = noise.new_empty(part.length, noise.shape[-1])
                _fill(drawn, self.distribution, generator)
                noise[part.row, part.columns.to(noise.device)] = drawn

    def _fill_tokens(self, noise: Tensor, generator: torch.Generator) -> None:
        if self.head is None:
            batch, tok = self.layout.shape
            rows = torch.arange(batch).repeat_interleave(tok)
            places = self.layout.locate(rows, torch.arange(tok).repeat(batch))
        else:
            places = self.layout.locate(self.head.row, self.head.column)
        for i, place in enumerate(places):
            if place is not None:
                self._seed(generator, *place)
                _fill(noise[i], self.distribution, generator)

    def _seed(self, generator: torch.Generator, *what: int) -> None:
        generator.manual_seed(derive("noise", *self.key, self.site, self.layer, *what))


def _fill(out: Tensor, distribution: str, generator: torch.Generator) -> None:
    match distribution:
        case "normal":
            out.normal_(generator=generator)
        case "uniform":
            out.uniform_(-math.sqrt(3), math.sqrt(3), generator=generator)
        case "rademacher":
            out.random_(0, 2, generator=generator).mul_(2).sub_(1)
        case _:
            raise ValueError(f"unknown distribution {distribution!r}")


def add_noise(
    hidden: Float[Tensor, "*tokens hidden"],
    log_sigma: Float[Tensor, "*entries"],
    factor: float,
    scale: Float[Tensor, "*tokens 1"] | None,
    stream: NoiseStream,
) -> Float[Tensor, "*tokens hidden"]:
    """Add noise to `hidden`: factor * exp(log_sigma) * scale * z, in `hidden`'s dtype (float32 under autocast).

    `log_sigma` is a scalar or one entry per hidden unit; `scale` per token, taken as a constant.
    d loss / d log sigma = factor * sigma * sum_t scale_t <z_t, g_t>: z is drawn again in backward, and
    no tensor of the activation's size is kept.
    """
    noisy: Tensor = _AddNoise.apply(hidden, log_sigma, factor, scale, stream)  # type: ignore[no-untyped-call]
    return noisy


def token_rms(hidden: Float[Tensor, "*tokens hidden"]) -> Float[Tensor, "*tokens 1"]:
    """Compute each token's rms over the hidden size, in float32 at least, as a constant for autograd."""
    wide = hidden.detach().to(torch.promote_types(hidden.dtype, torch.float32))
    norm: Tensor = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
    return norm / math.sqrt(hidden.shape[-1])


class _AddNoise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        log_sigma: Tensor,
        factor: float,
        scale: Tensor | None,
        stream: NoiseStream,
    ) -> Tensor:
        ctx.save_for_backward(log_sigma, scale)
        ctx.factor, ctx.stream, ctx.dtype = factor, stream, hidden.dtype
        noise = stream.draw(hidden)
        noise.mul_(log_sigma.to(noise.dtype).exp() * factor)
        if scale is not None:
            noise.mul_(scale)
        # One buffer from draw to result: in float32 nothing else is allocated.
        wide = torch.is_autocast_enabled(hidden.device.type)
        return noise.add_(hidden).to(noise.dtype if wide else hidden.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor | None, None, None, None]:
        (grad,) = grads
        log_sigma, scale = ctx.saved_tensors
        onward = grad.to(ctx.dtype)
        if not ctx.needs_input_grad[1]:
            return onward, None, None, None, None
        product = ctx.stream.draw(grad).mul_(grad)
        if log_sigma.ndim == 0:
            inner = (
                product.sum() if scale is None else (product.sum(-1, keepdim=True) * scale).sum()
            )
        else:
            product = product if scale is None else product.mul_(scale)
            inner = product.flatten(0, -2).sum(0)
        size = log_sigma.to(inner.dtype).exp() * ctx.factor
        return onward, (size * inner).to(log_sigma.dtype), None, None, None
