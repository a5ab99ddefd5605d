"""Where the noise goes, how large it is, and whether it learns (ALP, arXiv 2603.19470)."""

import re
from typing import Annotated, Literal, Self

from pydantic import Field, PositiveFloat, field_validator, model_validator

from alpkit.config.base import Section
from alpkit.errors import ConfigError

_SPEC = re.compile(r"all|early|middle|late|(first|last|middle|every):[1-9]\d*|\d+-\d+")


class SigmaConfig(Section):
    init: Annotated[float, Field(ge=0)] = 0.02
    """Standard deviation of the noise at the start, one per selected layer."""
    learnable: bool = True
    """Whether log sigma is trained through the ratio."""
    lr: PositiveFloat = 0.01
    """AdamW learning rate of log sigma."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Decay on log sigma pulls sigma towards 1; the released scripts have 0.01 without saying so."""

    @model_validator(mode="after")
    def _zero_cannot_learn(self) -> Self:
        if self.init == 0 and self.learnable:
            raise ValueError("init: 0 cannot be learned (log 0); set learnable: false, or init > 0")
        return self


class PerturbationConfig(Section):
    """Seeded noise on hidden states during the update's forward; absent means none."""

    site: Literal["layer_input"] = "layer_input"
    """layer_input: the residual stream before the layer's input norm (the paper's site)."""
    layers: str | tuple[int, ...] = "all"
    """all | early | middle | late | first:k | last:k | middle:k | every:k | a-b (inclusive, 0-based) | [i, ...]."""
    sigma: SigmaConfig = SigmaConfig()
    """Size of the noise."""
    scale: Literal["absolute", "rms"] = "absolute"
    """rms: sigma is relative to each token's hidden-state rms (detached)."""
    distribution: Literal["normal", "uniform", "rademacher"] = "normal"
    """Unit variance in every case."""

    @field_validator("layers", mode="before")
    @classmethod
    def _layers_are_readable(cls, value: object) -> object:
        if isinstance(value, str) and _SPEC.fullmatch(value):
            return value
        if isinstance(value, (list, tuple)) and all(
            isinstance(i, int) and not isinstance(i, bool) and i >= 0 for i in value
        ):
            return tuple(sorted(set(value)))
        raise ValueError(
            f"{value!r} names no layers; write all, early, middle, late, first:k, last:k, middle:k, every:k, "
            "a-b (inclusive, 0-based) or a list of indices >= 0"
        )

    @property
    def attaches_nothing(self) -> bool:
        """Sigma 0 or an empty layer list: the control arm, spelled as a perturbation."""
        return self.sigma.init == 0 or self.layers == ()


def resolve_layers(spec: str | tuple[int, ...], count: int) -> list[int]:
    """Layer indices that `spec` selects in a model of `count` layers.

    early/middle/late scale the published windows 0-5, 12-17, 23-27 of 28 with depth (`docs`, design §4).
    Raises `ConfigError` for an index or a window outside the model, and for an empty named window.
    """
    if isinstance(spec, tuple):
        chosen = list(spec)
    elif spec == "all":
        chosen = list(range(count))
    elif spec in ("early", "middle", "late"):
        low, high = {"early": (0, 6), "middle": (12, 18), "late": (23, 28)}[spec]
        chosen = list(range(round(low * count / 28), round(high * count / 28)))
    elif ":" in spec:
        kind, number = spec.split(":")
        k = int(number)
        if kind == "every":
            chosen = list(range(0, count, k))
        else:
            start = {"first": 0, "last": count - k, "middle": (count - k) // 2}[kind]
            chosen = list(range(start, start + k))
    else:
        first, last = (int(part) for part in spec.split("-"))
        if last < first:
            raise ConfigError(
                f"perturbation.layers: {spec} runs backwards", fix=f"write {last}-{first}"
            )
        chosen = list(range(first, last + 1))
    if outside := [i for i in chosen if not 0 <= i < count]:
        raise ConfigError(
            f"perturbation.layers: {spec!r} selects layer {outside[0]}, but the model has layers 0-{count - 1}",
            fix="choose layers inside that range",
        )
    if not chosen and spec != ():
        raise ConfigError(
            f"perturbation.layers: {spec!r} selects no layer of a model with {count} layers",
            why="a perturbed arm that perturbs nothing would look like a result",
            fix="name the layers, or use layers: [] for the control",
        )
    return chosen
