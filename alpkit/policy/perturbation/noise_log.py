"""Measure the noise: how much arrived at each layer, and the gradient of log sigma.

Kept on the device and read once per step. Not here: what the keys mean (`alpkit.metrics`).
"""

import logging
import math
from collections.abc import Hashable, Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from alpkit.errors import NumericalError

_ELEMENTS = 2**17
"""Noise is measured on the first tokens of a step's first noisy forward, up to this many numbers."""


logger = logging.getLogger("alpkit.perturbation")


def all_finite(
    hidden: Float[Tensor, "*tokens hidden"],
    scale: Float[Tensor, "*tokens 1"] | None,
    mask: Bool[Tensor, "*tokens"] | None,
) -> Bool[Tensor, ""]:
    """Test whether the real tokens' states are finite, by one number a token (a sum or rms shows any bad term)."""
    told = hidden.detach().sum(-1) if scale is None else scale[..., 0]
    return (told.isfinite() if mask is None else told.isfinite() | ~mask.bool()).all()


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
        """Begin a micro-batch of the update named `key`; gradients from now on belong to it."""
        self._micro = (key, sample)

    def gradient(self, grad: Tensor) -> None:
        """Take a gradient of log sigma; called once per backward, more often under reentrant checkpointing."""
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
        hidden, noisy = hidden.flatten(0, -2), noisy.flatten(0, -2)
        rows = max(1, _ELEMENTS // max(1, hidden[0].numel()))
        before = hidden[:rows].float()
        came = noisy[:rows].float() - before
        size = size.float()
        wanted = size if scale is None else size * scale.flatten(0, -2)[:rows].float()
        tiny = torch.finfo(torch.float32).tiny
        squares = torch.stack(
            [
                came.pow(2).mean(-1),
                (came / wanted.clamp(min=tiny)).pow(2).mean(-1),
                before.pow(2).mean(-1),
            ]
        )
        chosen = squares if mask is None else squares[:, mask.flatten()[:rows]]
        self._arrived[slot] = chosen.mean(1).sqrt()

    def metrics(self, sigma: Float[Tensor, " entry"]) -> dict[str, float]:
        """Return sigma/* of the given sigma and noise/* as collected, and forget what was collected.

        Numbers that could not be computed are absent. Warns once when less than half the noise arrives.
        """
        values = {"sigma/mean": sigma.mean(), "sigma/min": sigma.min(), "sigma/max": sigma.max()}
        values |= self._by_layer("sigma", sigma)
        if self._gradients:
            values |= self._gradient_metrics()
        slots = sorted(self._arrived)
        arrived = [self._arrived[slot].to(sigma.device) for slot in slots]
        if arrived:
            values |= self._arrival_metrics(slots, torch.stack(arrived))
        ratios = [ratio for _, ratio, _ in arrived]
        # One transfer to the host, whatever the number of layers.
        numbers = torch.stack([*values.values(), *ratios]).tolist()
        self._warn_if_swallowed(slots, numbers[len(values) :])
        self.clear()
        named = zip(values, numbers)
        return {name: value for name, value in named if math.isfinite(value)}

    def refuse_nonfinite(
        self, log_sigma: Float[Tensor, " entry"], met: Mapping[int, Tensor]
    ) -> None:
        """Raise `NumericalError` where log sigma, or the states that a slot `met`, were not finite."""
        if not met:
            return
        slots = sorted(met)
        flags = [log_sigma.detach().isfinite().all()]
        flags += [met[slot].to(log_sigma.device) for slot in slots]
        sigma, *states = torch.stack(flags).tolist()
        if not sigma:
            raise NumericalError(
                "perturbation.sigma: log sigma is NaN or infinite",
                where=self.place(slots[0]),
                fix="lower perturbation.sigma.lr, or fix sigma with learnable: false",
            )
        for slot, fine in zip(slots, states, strict=True):
            if not fine:
                raise NumericalError(
                    f"perturbation.site {self._site}: hidden states are NaN or infinite",
                    where=self.place(slot),
                    why="the model's own numbers, before this layer's noise: real tokens only are looked at",
                    fix="look at the weights (a diverged update) or lower sigma in the layers below",
                )

    def clear(self) -> None:
        """Forget what was collected."""
        self._arrived.clear()
        self._gradients.clear()

    def place(self, slot: int) -> str:
        """Name a slot in messages."""
        return f"layer {self._layers[slot]}" if self._layers else self._site

    def _gradient_metrics(self) -> dict[str, Tensor]:
        updates: dict[tuple[int, ...], Tensor] = {}
        for (key, _), grad in self._gradients:
            updates[key] = updates[key] + grad if key in updates else grad
        totals = torch.stack(list(updates.values()))
        micros = torch.stack([grad for _, grad in self._gradients])
        metrics = {"sigma/grad_norm": totals.norm(dim=1).mean()}
        metrics |= self._by_layer("sigma/grad_norm", totals.abs().mean(0))
        if len(micros) > 1:
            ratio = micros.mean(0).abs() / micros.std(0)
            metrics["noise/signal_to_noise"] = ratio.mean()
            metrics |= self._by_layer("noise/signal_to_noise", ratio)
        return metrics

    def _arrival_metrics(self, slots: list[int], arrived: Tensor) -> dict[str, Tensor]:
        std, ratio, rms = arrived.unbind(1)
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

    def _warn_if_swallowed(self, slots: list[int], ratios: list[float]) -> None:
        share, slot = min(zip(ratios, slots, strict=True), default=(math.inf, 0))
        if share < 0.5 and not self._warned:
            self._warned = True
            logger.warning(
                "the dtype swallows the noise at %s: %.2f of sigma arrives ; "
                "raise sigma, or keep float32 weights (dtype: bfloat16 is autocast over them)",
                self.place(slot),
                share,
            )
