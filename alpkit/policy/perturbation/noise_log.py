"""What the noise did since the last look: how much arrived, and what gradient log sigma got.

Kept on the device and read once per step. Not here: what the keys mean (`alpkit.metrics`).
"""

import logging
import math
from collections.abc import Hashable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

_ELEMENTS = 2**17
"""Noise is measured on the first rows of a step's first noisy forward, up to this many numbers."""


logger = logging.getLogger("alpkit.perturbation")


class NoiseLog:
    """Collects per-slot measurements and per-micro-batch gradients until `metrics` takes them.

    A slot is one perturbed layer, or 0 at a site that has none (`layers` empty).
    """

    def __init__(self, site: str, layers: list[int]) -> None:
        self._site, self._layers = site, layers
        self._warned = False
        self._arrived: dict[int, Tensor] = {}
        self._micro: tuple[tuple[int, ...], Hashable] = ((), None)
        self._gradients: list[tuple[tuple[tuple[int, ...], Hashable], Tensor]] = []

    def micro_batch(self, key: tuple[int, ...], sample: Hashable) -> None:
        """Gradients that come from now on belong to this micro-batch of the update named `key`."""
        self._micro = (key, sample)

    def gradient(self, grad: Tensor) -> None:
        """Hook of log sigma: called once per backward, more often under reentrant checkpointing."""
        if self._gradients and self._gradients[-1][0] == self._micro:
            self._gradients[-1] = (self._micro, self._gradients[-1][1] + grad.detach())
        else:
            self._gradients.append((self._micro, grad.detach().clone()))

    @torch.no_grad()
    def arrival(
        self,
        slot: int,
        hidden: Float[Tensor, "*tokens hidden"],
        noisy: Float[Tensor, "*tokens hidden"],
        size: Float[Tensor, "*entries"],
        scale: Float[Tensor, "*tokens 1"] | None,
        mask: Bool[Tensor, "*tokens"] | None,
    ) -> None:
        """Measure the noise of `slot` unless it was measured already; size = factor * sigma."""
        if slot in self._arrived:
            return
        rows = max(1, _ELEMENTS // max(1, hidden[0].numel()))
        before = hidden[:rows].float()
        came = noisy[:rows].float() - before
        wanted = size.float() if scale is None else size.float() * scale[:rows].float()
        tiny = torch.finfo(torch.float32).tiny
        squares = torch.stack(
            [
                came.pow(2).mean(-1),
                (came / wanted.clamp(min=tiny)).pow(2).mean(-1),
                before.pow(2).mean(-1),
            ]
        )
        chosen = squares.flatten(1) if mask is None else squares[:, mask[:rows]]
        self._arrived[slot] = chosen.mean(1).sqrt()

    def metrics(self, sigma: Float[Tensor, " entry"]) -> dict[str, float]:
        """sigma/* of the given sigma and all that was collected, which is then forgotten.

        Numbers that could not be computed are absent. Warns once when less than half the noise arrives.
        """
        found = {"sigma/mean": sigma.mean(), "sigma/min": sigma.min(), "sigma/max": sigma.max()}
        found |= self._by_layer("sigma", sigma)
        if self._gradients:
            found |= self._gradient_metrics()
        if self._arrived:
            found |= self._arrival_metrics()
        self.clear()
        numbers = {name: float(value) for name, value in found.items()}
        return {name: value for name, value in numbers.items() if math.isfinite(value)}

    def clear(self) -> None:
        """Forget what was collected."""
        self._arrived.clear()
        self._gradients.clear()

    def place(self, slot: int) -> str:
        """Name of a slot in messages."""
        return f"layer {self._layers[slot]}" if self._layers else self._site

    def _gradient_metrics(self) -> dict[str, Tensor]:
        updates: dict[tuple[int, ...], Tensor] = {}
        for (key, _), grad in self._gradients:
            updates[key] = updates[key] + grad if key in updates else grad
        totals = torch.stack(list(updates.values()))
        micros = torch.stack([grad for _, grad in self._gradients])
        found = {"sigma/grad_norm": totals.norm(dim=1).mean()}
        found |= self._by_layer("sigma/grad_norm", totals.abs().mean(0))
        if len(micros) > 1:
            ratio = micros.mean(0).abs() / micros.std(0)
            found["noise/signal_to_noise"] = ratio.mean()
            found |= self._by_layer("noise/signal_to_noise", ratio)
        return found

    def _arrival_metrics(self) -> dict[str, Tensor]:
        slots = sorted(self._arrived)
        std, ratio, rms = torch.stack([self._arrived[slot] for slot in slots]).unbind(1)
        self._warn_if_swallowed(slots, ratio)
        return {
            "noise/realised_std": std.mean(),
            "noise/realised_ratio": ratio.min(),
            "noise/to_rms": (std / rms).mean(),
            **self._by_layer("noise/realised_std", std, slots),
            **self._by_layer("noise/to_rms", std / rms, slots),
        }

    def _by_layer(
        self, key: str, values: Tensor, slots: list[int] | None = None
    ) -> dict[str, Tensor]:
        if not self._layers:
            return {}
        layers = self._layers if slots is None else [self._layers[slot] for slot in slots]
        return {f"{key}/layer_{layer:02d}": v for layer, v in zip(layers, values, strict=True)}

    def _warn_if_swallowed(self, slots: list[int], ratio: Tensor) -> None:
        worst, share = int(ratio.argmin()), float(ratio.min())
        if share < 0.5 and not self._warned:
            self._warned = True
            logger.warning(
                "the dtype swallows the noise at %s: %.2f of sigma arrives (spec/alp.md G1); "
                "raise sigma, or keep float32 weights (dtype: bfloat16 is autocast over them)",
                self.place(slots[worst]),
                share,
            )
