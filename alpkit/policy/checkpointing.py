"""Activation checkpointing: layers that run again in the backward pass instead of keeping what they made.

Switched on once (`prepare`) and used inside `recomputing`, so that generation keeps its cache. Layers are
told that they train, the modules in them are not: nothing is dropped out, and models that drop out are
refused. Noise is keyed and packing is carried along, so a recomputed layer is the layer it was.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from alpkit.errors import ConfigError
from alpkit.policy.attention import keep_packing
from alpkit.policy.perturbation.gate import bound

_HEADS: Final = ("classifier", "summary")
"""Beginnings of the names of what other heads than the LM head drop out."""


def prepare(model: PreTrainedModel) -> None:
    """Make the layers of `model` ready to be recomputed; `ConfigError` where it cannot be done faithfully."""
    config = model.config.get_text_config()
    dropped = {k: v for k, v in config.to_dict().items() if _drops(k, v)}
    if dropped:
        raise ConfigError(
            f"{type(model).__name__} drops out activations in training: {dropped}",
            where="hardware.checkpoint_layers",
            why="a layer is recomputed in training mode only, where it would not be the sampled policy",
            fix="set these to 0 in the model's config.json, or leave checkpoint_layers off",
        )
    try:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    except ValueError as error:
        raise ConfigError(
            f"{type(model).__name__} cannot recompute its layers",
            where="hardware.checkpoint_layers",
            why=str(error).splitlines()[0],
            fix="leave checkpoint_layers off and lower micro_batch_tokens",
        ) from error

    def again(fn: Callable[..., object], *args: object) -> object:
        kept = keep_packing(model, bound(fn))
        return checkpoint(kept, *args, use_reentrant=False, preserve_rng_state=False)

    for layer in _layers(model):
        layer._gradient_checkpointing_func = again  # type: ignore[assignment]


@contextmanager
def recomputing(model: PreTrainedModel, on: bool) -> Iterator[None]:
    """Inside, forwards with gradient keep only what enters each layer, where `on`."""
    layers = _layers(model) if on and torch.is_grad_enabled() else []
    for layer in layers:
        layer.training = True  # the layer alone, none of its children
    try:
        yield
    finally:
        for layer in layers:
            layer.training = False


def _layers(model: PreTrainedModel) -> list[nn.Module]:
    return [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]


def _drops(name: str, value: object) -> bool:
    named = ("dropout" in name or "pdrop" in name) and not name.startswith(_HEADS)
    return named and isinstance(value, int | float) and not isinstance(value, bool) and value > 0
