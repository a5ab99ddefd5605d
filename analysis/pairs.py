"""Which arms are compared with which, and in what their configurations differ.

A perturbed arm has its σ = 0 twin (the grid names it); any other arm has GRPO under the same settings;
a layer subset has the arm with all layers, a site the layer input. All of them are one Holm family.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal, NamedTuple

from alpkit.analysis.frames import Config, GridFrame
from alpkit.config import ObjectiveConfig

Kind = Literal["noise", "method", "layers", "site"]

# Ingredients of a method by the config fields that make them up; anything else goes by its own name.
INGREDIENTS: Final = {
    "objective.surrogate.kind": "surrogate",
    "objective.surrogate": "clip band",
    "objective.ratio.denominator": "denominator",
    "objective.ratio.level": "ratio level",
    "objective.weight": "importance weight",
    "objective.reject": "rejection",
    "objective.aggregate": "aggregation",
    "objective.advantage": "advantage",
    "objective.reference_kl": "reference KL",
    "objective.log_ratio_clamp": "log-ratio clamp",
    "perturbation": "noise",
}
REFERENCES: Final[dict[Kind, str]] = {"layers": "all", "site": "layer_input"}
# Sites that are no layer: the subset of layers has no meaning there.
_WITHOUT_LAYERS: Final = ("embedding", "final_hidden", "logits")


class Pair(NamedTuple):
    """An arm and what it is compared with; `differs` names the ingredients that are not the same."""

    arm: str
    control: str
    kind: Kind
    differs: tuple[str, ...]

    @property
    def confounded(self) -> bool:
        """Whether more than one ingredient changed, so that no single one can take the credit."""
        return len(self.differs) > 1


def pairs(frame: GridFrame) -> list[Pair]:
    """Every comparison of the grid, in the arms' order; at most one per arm and kind."""
    configs, controls = frame.arm_configs, frame.grid.controls
    found = []
    for arm in frame.arms:
        if arm in controls:
            found.append(_pair(arm, controls[arm], "noise", configs))
        elif (base := baseline(arm, configs)) is not None:
            found.append(_pair(arm, base, "method", configs))
    for kind in REFERENCES:
        for group in subsets(configs, kind):
            reference = next((a for a, v in group.items() if v == REFERENCES[kind]), None)
            found += [
                Pair(arm, reference, kind, (kind,))
                for arm in group
                if reference is not None and arm != reference
            ]
    return [pair for pair in found if pair.control in frame.arms]


def control_of_arms(compared: Iterable[Pair]) -> dict[str, str]:
    """Arm -> the arm that its method is measured against: without its noise, else GRPO."""
    return {pair.arm: pair.control for pair in compared if pair.kind in ("noise", "method")}


def baseline(arm: str, configs: Mapping[str, Config]) -> str | None:
    """The plain GRPO arm whose every other setting is this arm's; None for GRPO itself and without one."""
    own = configs.get(arm)
    if own is None or _is_grpo(arm, own):
        return None
    fits = (
        name for name, c in configs.items() if _is_grpo(name, c) and _settings(c) == _settings(own)
    )
    return next(fits, None)


def subsets(configs: Mapping[str, Config], kind: Kind) -> list[dict[str, str]]:
    """Groups of perturbed arms that differ in `layers` (or `site`) alone: arm -> its value."""
    groups: dict[str, dict[str, str]] = {}
    for arm, config in configs.items():
        noise = config.get("perturbation") or {}
        if not noise or (kind == "layers" and noise.get("site") in _WITHOUT_LAYERS):
            continue
        rest = {**config, "perturbation": {k: v for k, v in noise.items() if k != kind}}
        groups.setdefault(repr(flat(rest)), {})[arm] = str(noise.get(kind))
    return [group for group in groups.values() if len(group) > 1]


def differing(ours: Config, theirs: Config) -> dict[str, tuple[Any, Any]]:
    """Dotted fields whose values differ, with both; None stands for an absent field."""
    own, other = flat(ours), flat(theirs)
    keys = dict.fromkeys([*own, *other])
    return {k: (own.get(k), other.get(k)) for k in keys if own.get(k) != other.get(k)}


def ingredients(fields: Iterable[str]) -> tuple[str, ...]:
    """What dotted fields are called among people: the parts of a method, each once."""
    return tuple(dict.fromkeys(_ingredient(field) for field in fields))


def _pair(arm: str, control: str, kind: Kind, configs: Mapping[str, Config]) -> Pair:
    if arm not in configs or control not in configs:
        return Pair(arm, control, kind, ())
    return Pair(arm, control, kind, ingredients(differing(configs[arm], configs[control])))


def _ingredient(field: str) -> str:
    fits = [name for name in INGREDIENTS if field == name or field.startswith(f"{name}.")]
    return INGREDIENTS[max(fits, key=len)] if fits else field


def _settings(config: Config) -> dict[str, Any]:
    """What is no part of a method."""
    return flat({k: v for k, v in config.items() if k not in ("objective", "perturbation")})


def _is_grpo(arm: str, config: Config) -> bool:
    """By its objective, whatever its name; or by its name, should the grid have moved its clip band."""
    named = arm == "grpo" or arm.startswith("grpo ")
    return not config.get("perturbation") and (named or config.get("objective") == _GRPO)


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted fields of nested sections with their values."""
    fields: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        fields |= flat(value, f"{name}.") if isinstance(value, dict) and value else {name: value}
    return fields


_GRPO: Final = ObjectiveConfig().model_dump(mode="json")
