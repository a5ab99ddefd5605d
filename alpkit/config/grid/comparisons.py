"""List the comparisons of a grid's arms, and say which of them are tests, before anything has run.

An arm is compared with its sigma = 0 twin; else with the file's `reference:`; else with GRPO under the same
settings; else along each of its axes, with the arm of the axis' first value. Layer subsets and sites are
compared with all layers and the layer input besides. `tests:` names the arms whose comparisons are tested
(one Holm family); the others are shown without a test. Not here: the tests (`alpkit.analysis.seeds.verdicts`).

    for c in grid.comparisons: print(c.arm, c.control, c.kind, c.tested)
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple

from alpkit.config.objective import ObjectiveConfig

Config = dict[str, Any]
"""A resolved configuration without its seed, as plain sections and values."""
Kind = Literal["noise", "reference", "method", "axis", "layers", "site"]

MIN_SEEDS: Final = 3
"""Shared seeds below which no comparison is tested."""
# Ingredients of a method by the config fields that make them up; anything else goes by its own name.
INGREDIENTS: Final = {
    "objective.surrogate.kind": "surrogate",
    "objective.surrogate": "clip band",
    "objective.ratio.denominator": "denominator",
    "objective.ratio.level": "ratio level",
    "objective.weight": "importance weight",
    "objective.reject": "rejection",
    "objective.centering": "score centering",
    "rollout.top_logprobs": "score centering",
    "objective.aggregate": "aggregation",
    "objective.advantage": "advantage",
    "objective.reference_kl": "reference KL",
    "objective.entropy_bonus": "entropy bonus",
    "objective.log_ratio_clamp": "log-ratio clamp",
    "perturbation": "noise",
}
REFERENCES: Final[dict[Literal["layers", "site"], str]] = {"layers": "all", "site": "layer_input"}
# Sites that are no layer: the subset of layers has no meaning there.
_WITHOUT_LAYERS: Final = ("embedding", "final_hidden", "logits")
_GRPO: Final = ObjectiveConfig().model_dump(mode="json")


class Comparison(NamedTuple):
    """An arm, what it is compared with and why; `tested`: whether it is among the file's tests."""

    arm: str
    control: str
    kind: Kind
    tested: bool = True

    @property
    def words(self) -> str:
        """Name the pair as `plan` prints it."""
        return f"{self.arm} against {self.control}"


def compare_arms(
    configs: Mapping[str, Config],
    *,
    controls: Mapping[str, str],
    axes: Mapping[str, Mapping[str, Any]],
    reference: str = "",
    tests: Sequence[str] = (),
) -> list[Comparison]:
    """Every comparison, in the arms' order; at most one per arm and kind (`axis`: one per axis).

    `axes`: arm -> its varied fields and values; `reference` and `tests` as the file names them: an arm, or
    the name that an arm has before its axes.
    """
    found: list[Comparison] = []
    for arm in configs:
        found += _of_arm(arm, configs, controls, axes, reference)
    for kind, first in REFERENCES.items():
        for group in subsets(configs, kind):
            control = next((a for a, value in group.items() if value == first), None)
            found += [
                Comparison(arm, control, kind)
                for arm in group
                if control is not None and arm != control
            ]
    known = [c for c in found if c.control in configs]
    if not tests:
        return known
    return [c._replace(tested=any(is_named(c.arm, name) for name in tests)) for c in known]


def is_named(arm: str, name: str) -> bool:
    """Whether a file that says `name` means this arm: itself, or with its axes' values behind."""
    return arm == name or arm.startswith(f"{name} ")


def uncompared(arms: Iterable[str], found: Iterable[Comparison]) -> list[str]:
    """Arms that stand on neither side of a comparison."""
    seen = {arm for c in found for arm in (c.arm, c.control)}
    return [arm for arm in arms if arm not in seen]


def told(arms: Sequence[str], found: Sequence[Comparison], seeds: int) -> Iterator[str]:
    """Say what will be tested and what cannot be, a line each."""
    pairs = list(dict.fromkeys(c[:2] for c in found if c.tested))
    shown = list(dict.fromkeys(c[:2] for c in found if not c.tested and c[:2] not in pairs))
    few = seeds < MIN_SEEDS
    if pairs and few:
        yield f"nothing will be tested: {seeds} seed{'s' if seeds > 1 else ''}, a test needs {MIN_SEEDS}"
    verb = f"would be tested with {MIN_SEEDS} seeds" if few else "will be tested"
    yield from (f"{verb}: {arm} against {control}" for arm, control in pairs)
    yield from (f"shown without a test: {arm} against {control}" for arm, control in shown)
    for arm in uncompared(arms, found) if len(arms) > 1 else ():
        yield (
            f"cannot be tested: {arm} (no control, no axis with another value; name one with reference: ARM)"
        )


def baseline(arm: str, configs: Mapping[str, Config]) -> str | None:
    """The plain GRPO arm whose every other setting is this arm's; None for GRPO itself and without one."""
    own = configs.get(arm)
    if own is None or _is_grpo(arm, own):
        return None
    fits = (
        name for name, c in configs.items() if _is_grpo(name, c) and _settings(c) == _settings(own)
    )
    return next(fits, None)


def subsets(configs: Mapping[str, Config], kind: Literal["layers", "site"]) -> list[dict[str, str]]:
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
    """Name the parts of a method that dotted fields belong to, each once."""
    return tuple(dict.fromkeys(_ingredient(field) for field in fields))


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted fields of nested sections with their values."""
    fields: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        fields |= flat(value, f"{name}.") if isinstance(value, dict) and value else {name: value}
    return fields


def _of_arm(
    arm: str,
    configs: Mapping[str, Config],
    controls: Mapping[str, str],
    axes: Mapping[str, Mapping[str, Any]],
    reference: str,
) -> list[Comparison]:
    if arm in controls:
        return [Comparison(arm, controls[arm], "noise")]
    if reference and not is_named(arm, reference):
        named = [other for other in configs if is_named(other, reference)]
        if named:
            # Of a reference with axes, the point that shares the most with this arm.
            near = min(named, key=lambda other: len(differing(configs[arm], configs[other])))
            return [Comparison(arm, near, "reference")]
    if (base := baseline(arm, configs)) is not None:
        return [Comparison(arm, base, "method")]
    return list(_along_axes(arm, configs, axes))


def _along_axes(
    arm: str, configs: Mapping[str, Config], axes: Mapping[str, Mapping[str, Any]]
) -> Iterator[Comparison]:
    """Compare with the first arm that differs from this one in an axis alone, per axis.

    Fields that vary together (`zip`) leave no such arm; then it is the first that differs in axes alone.
    """
    own = axes.get(arm) or {}
    firsts = []
    for key in own:
        alike = [a for a in configs if _without(configs[a], [key]) == _without(configs[arm], [key])]
        firsts += [first for first in alike[:1] if first != arm]
    group = [a for a in configs if _without(configs[a], own) == _without(configs[arm], own)]
    alone = all(_alone(arm, key, configs) for key in own)
    if not firsts and alone and own and group[0] != arm:
        firsts = group[:1]
    yield from (Comparison(arm, first, "axis") for first in dict.fromkeys(firsts))


def _alone(arm: str, key: str, configs: Mapping[str, Config]) -> bool:
    """Whether no other arm is this one but for the axis `key`."""
    own = _without(configs[arm], [key])
    return sum(_without(config, [key]) == own for config in configs.values()) == 1


def _without(config: Config, keys: Iterable[str]) -> dict[str, Any]:
    gone = tuple(keys)
    return {
        field: value
        for field, value in flat(config).items()
        if not any(field == key or field.startswith(f"{key}.") for key in gone)
    }


def _ingredient(field: str) -> str:
    fits = [name for name in INGREDIENTS if field == name or field.startswith(f"{name}.")]
    return INGREDIENTS[max(fits, key=len)] if fits else field


def _settings(config: Config) -> dict[str, Any]:
    """Take the fields of a configuration that belong to no method, dotted."""
    return flat({k: v for k, v in config.items() if k not in ("objective", "perturbation")})


def _is_grpo(arm: str, config: Config) -> bool:
    """By its objective, whatever its name; or by its name, should the grid have moved its clip band."""
    named = arm == "grpo" or arm.startswith("grpo ")
    return not config.get("perturbation") and (named or config.get("objective") == _GRPO)
