"""What the noise did since the last look: how much arrived, and what gradient log sigma got.

Kept on the device and read once per step. Not here: what the keys mean (`alpkit.metrics`).
"""

from collections.abc import Hashable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

_ELEMENTS = 2**17
"""Noise is measured on the first rows of a step's first noisy forward, up to this many numbers."""


class Arrived(NamedTuple):
    """Per slot: std of the noise after the addition, that over what was asked for, that over the rms."""

    std: Float[Tensor, " slot"]
    ratio: Float[Tensor, " slot"]
    to_rms: Float[Tensor, " slot"]


class SigmaGradient(NamedTuple):
    """Per entry of log sigma, over a step; `signal_to_noise` None below two micro-batches."""

    norm: Float[Tensor, ""]
    size: Float[Tensor, " entry"]
    signal_to_noise: Float[Tensor, " entry"] | None


class NoiseLog:
    """Collects per-slot measurements and per-micro-batch gradients until they are taken."""

    def __init__(self) -> None:
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

    def take_arrived(self) -> tuple[list[int], Arrived] | None:
        """Slots that were measured, and what arrived there; forgets it."""
        if not self._arrived:
            return None
        slots = sorted(self._arrived)
        std, ratio, rms = torch.stack([self._arrived[slot] for slot in slots]).unbind(1)
        self._arrived.clear()
        return slots, Arrived(std, ratio, std / rms)

    def take_gradient(self) -> SigmaGradient | None:
        """Gradient of log sigma over the updates since the last call; forgets it."""
        if not self._gradients:
            return None
        updates: dict[tuple[int, ...], Tensor] = {}
        for (key, _), grad in self._gradients:
            updates[key] = updates[key] + grad if key in updates else grad
        totals = torch.stack(list(updates.values()))
        micros = torch.stack([grad for _, grad in self._gradients])
        self._gradients.clear()
        ratio = micros.mean(0).abs() / micros.std(0) if len(micros) > 1 else None
        return SigmaGradient(totals.norm(dim=1).mean(), totals.abs().mean(0), ratio)
