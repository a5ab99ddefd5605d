"""Layerwise perturbation: seeded noise on hidden states, with a learnable size per layer.

Implements ALP (arXiv:2603.19470) on any Hugging Face causal LM through forward
hooks: h_l <- h_l + sigma_l z_l at the site of every selected layer. The noise is keyed, never stored:
backward draws it again for the gradient of log sigma. Usage, no trainer needed:

    perturbation = LayerwisePerturbation(model, PerturbationConfig(scale="rms"))
    with perturbation.active(key=(seed, step, update), mask=attention):
        logits = model(input_ids, attention_mask=attention).logits
    loss(logits).backward()                      # inside or outside, checkpointed or not: the same

Not here: where modules are (`sites`), the noise (`noise`), measurements (`noise_log`), sigma from a
target (`calibration`).
"""

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import Cache

from alpkit.config.perturbation import LAYER_SITES, PerturbationConfig, resolve_layers
from alpkit.policy.perturbation.gate import (
    Draw,
    bind_checkpointing,
    current,
    eager,
    opened,
    unbind_checkpointing,
)
from alpkit.policy.perturbation.noise import NoiseStream, add_noise, token_rms
from alpkit.policy.perturbation.noise_log import NoiseLog, all_finite
from alpkit.policy.perturbation.sites import Sites, find_sites, hook_states
from alpkit.policy.perturbation.token_layout import SampleIds

logger = logging.getLogger("alpkit.perturbation")


class LayerwisePerturbation:
    """Noise at one site of a model, on inside `active(...)` only.

    Parameters
    ----------
    model : causal LM of transformers, plain or PEFT-wrapped; its parameters and `state_dict` stay as
        they are, and log sigma stays out of them.
    config : site, layers, sigma, schedule, scale, distribution, draws. Sigma 0 or no layers attach
        nothing.
    device : where log sigma lives (default: where the model is; needed for a model on `meta`).

    Attributes
    ----------
    log_sigma : float32 [slot] (nats): one entry per selected layer, one at embedding, final_hidden
        and logits, one per vocabulary entry with `per: vocab`.
    layers : resolved 0-based layers; empty away from the decoder layers and when nothing is attached.
    loss_scale : factor on the loss in the backward (float16 training); gradients are logged without it.

    Raises
    ------
    ConfigError : layers outside the model; a site or an architecture that is not found.

    References
    ----------
    Ye et al. 2026, Adaptive Layerwise Perturbation, arXiv:2603.19470.
    """

    def __init__(
        self,
        model: nn.Module,
        config: PerturbationConfig,
        *,
        device: torch.device | str | int | None = None,
    ) -> None:
        sites = find_sites(model)
        self.config, self._sites = config, sites
        attached = not config.attaches_nothing
        layerwise = attached and config.site in LAYER_SITES
        self.layers = resolve_layers(config.layers, len(sites.layers)) if layerwise else []
        entries = _entries(sites, config, len(self.layers)) if attached else 0
        device = next(model.parameters()).device if device is None else device
        init = math.nan if config.sigma.init is None else config.sigma.init
        self.log_sigma = nn.Parameter(
            torch.full(
                (entries,),
                math.log(init) if entries else 0.0,
                dtype=torch.float32,
                device=device,
            ),
            requires_grad=config.sigma.learnable,
        )
        self._factor = 1.0 if config.schedule.constant else None
        self.loss_scale = 1.0
        self._log = NoiseLog(config.site, self.layers)
        self._hooks: list[RemovableHandle] = []
        if not attached:
            return
        self._hooks += [
            sites.decoder.register_forward_pre_hook(self._before_decoder, with_kwargs=True),
            *hook_states(sites, config.site, self.layers, self._add),
        ]
        if config.sigma.learnable:
            self._hooks.append(self.log_sigma.register_hook(self._see_gradient))
        where = f" of layers {self.layers} of {len(sites.layers)}" if self.layers else ""
        logger.info("noise at %s%s, sigma %s", config.site, where, config.sigma.init)

    @contextmanager
    def active(
        self,
        key: Sequence[int],
        sample: SampleIds | None = None,
        mask: Bool[Tensor, "batch tok"] | None = None,
        *,
        draw: int = 0,
    ) -> Iterator[None]:
        """Turn the noise on: the only gate, whatever `training` or the grad mode.

        Parameters
        ----------
        key : ints that name the update: (seed, step, update).
        sample : id per row, or per token for packed rows (default: row index). Rows of one id and key
            get the same noise wherever they stand, so give ids when a batch is split.
        mask : real tokens, bool (default: all). Padding gets no noise.
        draw : which of `config.draws`; antithetic pairs are (0, 1), (2, 3), ...

        Raises
        ------
        RuntimeError : inside itself; before `at_step` with a schedule; before sigma is calibrated.
        NumericalError : on leaving, when hidden states at a site or log sigma were not finite.
        """
        if current(self) is not None:
            raise RuntimeError(
                "the perturbation is already active; leave the first context before entering another"
            )
        if not 0 <= draw < self.config.draws:
            raise ValueError(f"draw {draw} is not one of perturbation.draws = {self.config.draws}")
        if self._factor is None:
            raise RuntimeError(
                "perturbation.schedule depends on the step: call at_step(step) first"
            )
        if self.config.sigma.init is None and self.log_sigma.isnan().any():
            raise RuntimeError(
                "perturbation.sigma.target_ratio_std: sigma is not found yet; call "
                "alpkit.policy.perturbation.calibration.calibrate_sigma first"
            )
        pair, member = divmod(draw, 2) if self.config.antithetic else (draw, 0)
        name = tuple(int(part) for part in key)
        noise = Draw((*name, pair), 1 - 2 * member, self._factor, sample, mask)
        self._log.micro_batch(name, _hashable(sample))
        with opened(self, noise):
            yield
        self._log.refuse_nonfinite(self.log_sigma, noise.finite)

    def at_step(self, step: int | None) -> None:
        """Set the schedule's factor for `step` (1-based); None: no schedule, sigma as it is."""
        self._factor = 1.0 if step is None else self.config.schedule.factor(step)

    def set_sigma(self, sigma: float) -> None:
        """Set every entry to one sigma (> 0), and forget measurements of the noise before."""
        with torch.no_grad():
            self.log_sigma.fill_(math.log(sigma))
        self._log.clear()

    def parameters(self) -> list[nn.Parameter]:
        """List the parameters to train: log sigma, or nothing when it is fixed or empty."""
        return [self.log_sigma] if self.log_sigma.requires_grad and len(self.log_sigma) else []

    def metrics(self) -> dict[str, float]:
        """Return sigma/* and noise/* since the last call (`docs/metrics.md`); empty when nothing is attached.

        Warns once, in the log, when less than half of the noise arrives.
        """
        if not len(self.log_sigma):
            return {}
        sigma = self.log_sigma.detach().exp() * (1.0 if self._factor is None else self._factor)
        return self._log.metrics(sigma)

    def remove(self) -> None:
        """Take the hooks off; the model is bit for bit what it was."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        unbind_checkpointing([self._sites.decoder, *self._sites.layers])

    def _see_gradient(self, gradient: Tensor) -> None:
        self._log.gradient(gradient / self.loss_scale)

    @eager
    def _before_decoder(
        self, module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]
    ) -> None:
        bind_checkpointing([module, *self._sites.layers])
        draw = current(self)
        if draw is None:
            return
        cache = cast(Cache | None, kwargs.get("past_key_values"))
        if cache is not None and cache.get_seq_length() > 0:
            raise RuntimeError(
                "noise is keyed by whole samples, and this forward continues a KV cache; "
                "run whole rows inside active(...), and generate outside of it"
            )
        inputs = [*args[:1], kwargs.get("input_ids"), kwargs.get("inputs_embeds")]
        draw.grid = next((t.shape[0], t.shape[1]) for t in inputs if isinstance(t, Tensor))

    def _add(
        self, hidden: Float[Tensor, "*tokens hidden"], slot: int
    ) -> Float[Tensor, "*tokens hidden"] | None:
        """Add the slot's noise to the states; None while the noise is off."""
        draw = current(self)
        if draw is None:
            return None
        shape, head = hidden.shape, None
        if self.config.site == "logits":
            grid, head = draw.grid_of_logits(hidden)
        else:
            grid = draw.grid_of(hidden)
            hidden = hidden.view(*grid, -1) if hidden.ndim == 2 else hidden
        layout = draw.layout(grid)
        layer = self.layers[slot] if self.layers else 0
        stream = NoiseStream(
            draw.key, self.config.site, layer, layout, self.config.distribution, draw.sign, head
        )
        log_sigma = self.log_sigma.to(hidden.device)
        log_sigma = log_sigma if self.config.sigma.per == "vocab" else log_sigma[slot]
        scale = token_rms(hidden) if self.config.scale == "rms" else None
        noisy = add_noise(hidden, log_sigma, draw.factor, scale, stream)
        mask = None if head is not None else layout.mask
        draw.finite[slot] = all_finite(hidden, scale, mask)
        if draw.factor > 0:
            size = log_sigma.detach().exp() * draw.factor
            self._log.arrival(slot, hidden.detach(), noisy.detach(), size, scale, mask)
        return noisy.view(shape)


def _entries(sites: Sites, config: PerturbationConfig, layers: int) -> int:
    """Count the sigmas."""
    if config.site in LAYER_SITES:
        return layers
    if config.sigma.per == "vocab":
        return int(cast(Tensor, sites.head().weight).shape[0])
    return 1


def _hashable(sample: SampleIds | None) -> tuple[int, ...]:
    return () if sample is None else tuple(torch.as_tensor(sample).flatten().tolist())
