"""Layerwise perturbation: seeded Gaussian noise on hidden states, with a learnable size per layer.

Implements ALP (arXiv:2603.19470; `spec/alp.md` A.4-A.7) on any Hugging Face causal LM through forward
pre-hooks: h_l <- h_l + sigma_l z_l at the input of every selected decoder layer. The noise is keyed,
never stored: backward draws it again for the gradient of log sigma. Usage, no trainer needed:

    perturbation = LayerwisePerturbation(model, PerturbationConfig(scale="rms"))
    with perturbation.active(key=(seed, step, update), mask=attention):
        loss = model(input_ids, attention_mask=attention).logits...
        loss.backward()

Not here: other sites, several draws, and noise under activation checkpointing.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, assert_never

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from alpkit.config.perturbation import PerturbationConfig, resolve_layers
from alpkit.policy.loading import decoder_layers
from alpkit.seeds import derive


@dataclass(frozen=True)
class NoiseStream:
    """Unit-variance noise of one layer: one stream per (key, site, layer, sample), in token order.

    Drawn over each sample's real tokens only, so that padding, packing, micro-batch split, arm and
    rank do not change it. Drawing twice gives the same numbers.
    """

    key: tuple[int, ...]
    site: str
    layer: int
    sample: tuple[int, ...]
    mask: Bool[Tensor, "batch tok"] | None
    distribution: str

    def draw(self, like: Float[Tensor, "batch tok hidden"]) -> Float[Tensor, "batch tok hidden"]:
        """Noise of `like`'s shape and device, float32 (float64 for float64); 0 at masked tokens."""
        dtype = torch.promote_types(like.dtype, torch.float32)
        batch, tok, hidden = like.shape
        if self.mask is None:
            counts = [tok] * batch
        else:
            counts = self.mask.sum(dim=1).tolist()
        flat = torch.empty(sum(counts), hidden, dtype=dtype, device=like.device)
        generator = torch.Generator(device=like.device)
        start = 0
        for sample, count in zip(self.sample, counts, strict=True):
            generator.manual_seed(derive(*self.key, "noise", self.site, self.layer, sample))
            _fill(flat[start : start + count], self.distribution, generator)
            start += count
        if self.mask is None:
            return flat.view(batch, tok, hidden)
        noise = torch.zeros(batch, tok, hidden, dtype=dtype, device=like.device)
        noise[self.mask] = flat
        return noise


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


class _AddNoise(torch.autograd.Function):
    """h + sigma * scale * z forward; backward re-draws z for d loss / d log sigma and keeps no activation."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, log_sigma: Tensor, scale: Tensor | None, stream: NoiseStream
    ) -> Tensor:
        noise = stream.draw(hidden)
        if scale is not None:
            noise = noise * scale
        ctx.save_for_backward(log_sigma, scale)
        ctx.stream = stream
        return (hidden + log_sigma.exp() * noise).to(hidden.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        (grad,) = grads
        log_sigma, scale = ctx.saved_tensors
        if not ctx.needs_input_grad[1]:
            return grad, None, None, None
        noise = ctx.stream.draw(grad)
        if scale is not None:
            noise = noise * scale
        inner = (noise * grad.to(noise.dtype)).sum()
        return (
            grad,
            (log_sigma.exp() * inner).to(log_sigma.dtype).reshape(log_sigma.shape),
            None,
            None,
        )


@dataclass
class _Active:
    key: tuple[int, ...]
    sample: tuple[int, ...] | None
    mask: Bool[Tensor, "batch tok"] | None


class LayerwisePerturbation:
    """Noise at the inputs of a model's selected decoder layers, on inside `active(...)` only.

    `log_sigma` (float32, one entry per selected layer, nats) lives here and never in the model's
    `state_dict`. Raises `ConfigError` for layers outside the model and for unknown architectures.
    """

    def __init__(self, model: nn.Module, config: PerturbationConfig) -> None:
        layers = decoder_layers(model)
        self.config = config
        self.layers = [] if config.attaches_nothing else resolve_layers(config.layers, len(layers))
        start = math.log(config.sigma.init) if self.layers else 0.0
        device = next(model.parameters()).device
        self.log_sigma = nn.Parameter(
            torch.full((len(self.layers),), start, dtype=torch.float32, device=device),
            requires_grad=config.sigma.learnable,
        )
        self._active: _Active | None = None
        self._realised: dict[int, Tensor] = {}
        self._hooks = [
            layers[layer].register_forward_pre_hook(self._hook(slot, layer), with_kwargs=True)
            for slot, layer in enumerate(self.layers)
        ]

    @contextmanager
    def active(
        self,
        key: Sequence[int],
        sample: Sequence[int] | Int[Tensor, " batch"] | None = None,
        mask: Bool[Tensor, "batch tok"] | None = None,
    ) -> Iterator[None]:
        """Turn the noise on: the only gate, whatever `training` or the grad mode.

        `key` names the draw (seed, step, update); `sample` gives each row's id (default: row index);
        `mask` marks real tokens (default: all). Not re-entrant: RuntimeError inside itself.
        """
        if self._active is not None:
            raise RuntimeError(
                "the perturbation is already active; leave the first context before entering another"
            )
        ids = sample.tolist() if isinstance(sample, Tensor) else sample
        self._active = _Active(
            tuple(int(part) for part in key), None if ids is None else tuple(ids), mask
        )
        try:
            yield
        finally:
            self._active = None

    def parameters(self) -> list[nn.Parameter]:
        """What an optimizer should train: log sigma, or nothing when it is fixed or empty."""
        return [self.log_sigma] if self.layers and self.config.sigma.learnable else []

    def metrics(self) -> dict[str, float]:
        """sigma per layer, and the noise's realised std in the model's dtype since the last call."""
        if not self.layers:
            return {}
        sigma = self.log_sigma.detach().exp()
        found = {"sigma/mean": sigma.mean(), "sigma/min": sigma.min(), "sigma/max": sigma.max()}
        found |= {f"sigma/layer_{layer:02d}": sigma[i] for i, layer in enumerate(self.layers)}
        if self._realised:
            slots = list(self._realised)
            realised = torch.stack([self._realised[slot] for slot in slots])
            found["noise/realised_std"] = realised.mean()
            found["noise/realised_ratio"] = (realised / sigma[slots]).min()
            self._realised.clear()
        return {name: float(value) for name, value in found.items()}

    def remove(self) -> None:
        """Take the hooks off; the model is bit for bit what it was."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def _hook(self, slot: int, layer: int) -> Any:
        def perturb(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if self._active is None:
                return None
            by_position = bool(args)
            hidden = args[0] if by_position else kwargs["hidden_states"]
            noisy = self._add(hidden, slot, layer)
            if by_position:
                return (noisy, *args[1:]), kwargs
            return args, {**kwargs, "hidden_states": noisy}

        return perturb

    def _add(
        self, hidden: Float[Tensor, "batch tok hidden"], slot: int, layer: int
    ) -> Float[Tensor, "batch tok hidden"]:
        active = self._active
        assert active is not None
        sample = tuple(range(hidden.shape[0])) if active.sample is None else active.sample
        stream = NoiseStream(
            active.key, self.config.site, layer, sample, active.mask, self.config.distribution
        )
        match self.config.scale:
            case "absolute":
                scale = None
            case "rms":
                wide = hidden.detach().to(torch.promote_types(hidden.dtype, torch.float32))
                scale = wide.pow(2).mean(dim=-1, keepdim=True).sqrt()
            case _:
                assert_never(self.config.scale)
        noisy: Tensor = _AddNoise.apply(hidden, self.log_sigma[slot], scale, stream)  # type: ignore[no-untyped-call]
        if slot not in self._realised:
            self._realised[slot] = _realised_std(
                hidden.detach(), noisy.detach(), scale, active.mask
            )
        return noisy


def _realised_std(
    hidden: Tensor, noisy: Tensor, scale: Tensor | None, mask: Bool[Tensor, "batch tok"] | None
) -> Tensor:
    """Std of what really arrived, in units of the scale: below sigma where the dtype swallows it."""
    arrived = noisy.float() - hidden.float()
    if scale is not None:
        arrived = arrived / scale.float().clamp(min=torch.finfo(torch.float32).tiny)
    return arrived[mask].std() if mask is not None else arrived.std()
