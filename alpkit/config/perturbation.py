"""Settings of the noise: where it goes, how large it is, whether it learns (ALP, arXiv 2603.19470; docs/alp.md).

A value without effect is dropped from the validated config, so that two spellings of one noise have
one hash: `layers` away from the decoder layers, and the optimizer's settings of a fixed sigma.
"""

import re
from typing import Annotated, Final, Literal, Self

from pydantic import (
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from alpkit.config.base import Section
from alpkit.errors import ConfigError

Site = Literal[
    "layer_input", "attention_output", "mlp_output", "embedding", "final_hidden", "logits"
]
LAYER_SITES: Final = ("layer_input", "attention_output", "mlp_output")

LAYERS = re.compile(r"all|early|middle|late|(first|last|middle|every):[1-9]\d*|\d+-\d+")
_SCHEDULES: Final = "constant, {warmup: n} or {decay_to: x, steps: n}"


class SigmaConfig(Section):
    init: Annotated[float, Field(ge=0)] | None = 0.02
    """Standard deviation of the noise at the start, one per selected layer; null with target_ratio_std."""
    target_ratio_std: PositiveFloat | None = None
    """Instead of init: before the run, one common sigma is sought at which the standard deviation over
    response tokens of log pi_theta,delta - log pi_theta is this many nats (within 2 %); sigma is then fixed."""
    learnable: bool = True
    """Whether log sigma is trained through the ratio."""
    per: Literal["scalar", "vocab"] = "scalar"
    """vocab: one sigma per vocabulary entry (site logits only)."""
    lr: NonNegativeFloat = 0.01
    """AdamW learning rate of log sigma; 0: it keeps its gradient and never moves."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Decay on log sigma pulls sigma towards 1; the released scripts have 0.01 without saying so."""

    @model_validator(mode="before")
    @classmethod
    def _drop_what_has_no_effect(cls, data: object) -> object:
        if not isinstance(data, dict):
            return data
        data = dict(data)
        if data.get("target_ratio_std") is not None:
            if data.get("init") is not None:
                raise ValueError("init: target_ratio_std finds sigma itself; remove one of the two")
            if data.get("learnable"):
                raise ValueError(
                    "learnable: a sigma matched to target_ratio_std would not stay matched; "
                    "remove learnable: true"
                )
            data |= {"init": None, "learnable": False}
        if data.get("learnable") is False:
            data.pop("lr", None)
            data.pop("weight_decay", None)
        return data

    @model_validator(mode="after")
    def _zero_cannot_learn(self) -> Self:
        if self.init is None and self.target_ratio_std is None:
            raise ValueError("init: null needs target_ratio_std; give one of the two")
        if self.init == 0 and self.learnable:
            raise ValueError("init: 0 cannot be learned (log 0); set learnable: false, or init > 0")
        return self


class ScheduleConfig(Section):
    """A factor on sigma by step: constant (nothing set), {warmup: n} or {decay_to: x, steps: n}."""

    warmup: Annotated[int, Field(ge=2)] | None = None
    """Steps over which the factor rises linearly to 1: step / n."""
    decay_to: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Share of sigma that is left after `steps` steps, reached linearly."""
    steps: PositiveInt | None = None
    """Steps that the decay takes."""

    @model_validator(mode="before")
    @classmethod
    def _one_kind(cls, data: object) -> object:
        if data == "constant":
            return {}
        if not isinstance(data, dict):
            raise ValueError(f"{data!r} is no schedule; write {_SCHEDULES}")
        given = {key for key, value in data.items() if value is not None} & set(cls.model_fields)
        if given not in (set(), {"warmup"}, {"decay_to", "steps"}):
            raise ValueError(
                f"{', '.join(sorted(given))} do not make a schedule; write {_SCHEDULES}"
            )
        return data

    def factor(self, step: int) -> float:
        """Give the factor on sigma in `step` (1-based)."""
        if self.warmup is not None:
            return min(1.0, step / self.warmup)
        if self.decay_to is not None and self.steps is not None:
            return 1.0 - (1.0 - self.decay_to) * min(1.0, step / self.steps)
        return 1.0

    @property
    def constant(self) -> bool:
        return self.warmup is None and self.decay_to is None


class PerturbationConfig(Section):
    """Seeded noise on hidden states during the update's forward; absent means none."""

    site: Site = "layer_input"
    """layer_input: the residual stream before the layer's input norm (the paper's site);
    attention_output, mlp_output: what a layer's block adds to it, behind the block's own norm where a layer has
    one there (gemma2, gemma3, olmo2), before granite's residual multiplier; embedding: token embeddings;
    final_hidden: what the LM head reads; logits: before the model's logit scale, its soft cap, temperature and
    softmax."""
    layers: str | tuple[int, ...] = "all"
    """all | early | middle | late | first:k | last:k | middle:k | every:k | a-b (inclusive, 0-based) | [i, ...];
    no effect at embedding, final_hidden and logits."""
    sigma: SigmaConfig = SigmaConfig()
    """Size of the noise."""
    schedule: ScheduleConfig = ScheduleConfig()
    """constant | {warmup: n} | {decay_to: x, steps: n}: a factor on sigma by step."""
    scale: Literal["absolute", "rms"] = "absolute"
    """rms: sigma is relative to each token's rms at the site (over the vocabulary at logits), detached."""
    distribution: Literal["normal", "uniform", "rademacher"] = "normal"
    """Unit variance in every case."""
    draws: PositiveInt = 1
    """Noisy forwards per micro-batch, averaged in the loss."""
    antithetic: bool = False
    """Draws come in pairs of opposite sign; `draws` counts both members."""

    gradient: Literal["perturbed", "clean"] = "perturbed"
    """Which policy the loss's gradient goes through. perturbed: the one whose ratio is clipped (ALP). clean:
    the value of the perturbed ratio with the gradient of pi_theta, a control that tells the noise in the ratio
    from the smoothing of the network; it costs one more forward, and sigma has no gradient, so that it must be
    fixed."""

    @model_validator(mode="before")
    @classmethod
    def _drop_what_has_no_effect(cls, data: object) -> object:
        if isinstance(data, dict) and data.get("site", "layer_input") not in LAYER_SITES:
            # An empty list is the control arm at every site.
            if "layers" in data and data["layers"] not in ([], ()):
                data = {key: value for key, value in data.items() if key != "layers"}
        return data

    @field_validator("layers", mode="before")
    @classmethod
    def _layers_are_readable(cls, value: object) -> object:
        if isinstance(value, str) and LAYERS.fullmatch(value):
            return value
        if isinstance(value, (list, tuple)) and all(
            isinstance(i, int) and not isinstance(i, bool) and i >= 0 for i in value
        ):
            return tuple(sorted(set(value)))
        raise ValueError(
            f"{value!r} names no layers; write all, early, middle, late, first:k, last:k, middle:k, every:k, "
            "a-b (inclusive, 0-based) or a list of indices >= 0"
        )

    @model_validator(mode="after")
    def _combinations_mean_something(self) -> Self:
        if self.sigma.per == "vocab" and self.site != "logits":
            raise ValueError(
                f"sigma.per: vocab is one sigma per logit; {self.site} has none, set site: logits or per: scalar"
            )
        if self.antithetic and self.draws % 2:
            raise ValueError(
                f"antithetic: pairs need an even number of draws, got {self.draws}; set draws: {self.draws + 1}"
            )
        if self.gradient == "clean" and self.sigma.learnable:
            raise ValueError(
                "sigma.learnable: gradient: clean sends nothing through the noise, so sigma has no gradient to learn "
                "from; set sigma.learnable: false, or gradient: perturbed"
            )
        return self

    @property
    def attaches_nothing(self) -> bool:
        """Whether there is no noise at all: sigma 0 or no layers, the control arm written as a perturbation."""
        return self.sigma.init == 0 or self.layers == ()


def resolve_layers(spec: str | tuple[int, ...], count: int) -> list[int]:
    """List the layers that `spec` selects in a model of `count` layers.

    early/middle/late scale the published windows 0-5, 12-17, 23-27 of 28 with depth.
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
