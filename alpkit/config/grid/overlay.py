"""Lay one config over another without losing where each value came from.

Mappings merge deeply. Where a section changes its kind (`rollout.engine`, `task.name`, …), keys that only
the old kind has are dropped from what lies below. A key that no kind has stays, so that validation can
point at it. The order of the layers is decided in `points.py`.
"""

import copy
from typing import Any, NamedTuple, Self, get_args

from pydantic import BaseModel

from alpkit.config.correction import WeightConfig
from alpkit.config.environment import ENVIRONMENT_FIELDS
from alpkit.config.files.yaml import Document, KeyPath, Mark
from alpkit.config.objective import AdvantageConfig, CenteringConfig, RatioConfig
from alpkit.config.perturbation import LAYER_SITES, PerturbationConfig, Site
from alpkit.config.run import HfRolloutConfig, VllmRolloutConfig
from alpkit.config.tasks import TASK_FIELDS


class _Kinds(NamedTuple):
    """A section whose entry `key` decides which of its other entries mean something."""

    key: str
    default: str
    fields: dict[str, frozenset[str]]

    @property
    def every(self) -> frozenset[str]:
        return frozenset().union(*self.fields.values())


def _fields(model: type[BaseModel], *unused: str) -> frozenset[str]:
    return frozenset(model.model_fields) - frozenset(unused)


_KINDS: dict[KeyPath, _Kinds] = {
    ("perturbation",): _Kinds(
        "site",
        "layer_input",
        {
            site: _fields(PerturbationConfig, *(() if site in LAYER_SITES else ("layers",)))
            for site in get_args(Site)
        },
    ),
    ("task",): _Kinds("name", "addition", TASK_FIELDS),
    ("environment",): _Kinds("name", "tool_math", ENVIRONMENT_FIELDS),
    ("rollout",): _Kinds(
        "engine", "hf", {"hf": _fields(HfRolloutConfig), "vllm": _fields(VllmRolloutConfig)}
    ),
    ("objective", "advantage"): _Kinds(
        "kind",
        "grpo",
        {
            "grpo": _fields(AdvantageConfig),
            "dr_grpo": _fields(AdvantageConfig, "normalize_std"),
            "rloo": _fields(AdvantageConfig, "normalize_std"),
        },
    ),
    ("objective", "ratio"): _Kinds(
        "denominator",
        "old",
        {
            "old": _fields(RatioConfig),
            "rollout": _fields(RatioConfig),
            "current": _fields(RatioConfig, "level"),
        },
    ),
    ("objective", "surrogate"): _Kinds(
        "kind",
        "ppo",
        {
            "ppo": frozenset({"kind", "epsilon_low", "epsilon_high", "dual_clip"}),
            "cispo": frozenset({"kind", "epsilon_low", "epsilon_high"}),
            "reinforce": frozenset({"kind"}),
            "sapo": frozenset({"kind", "tau_positive", "tau_negative"}),
            "vespo": frozenset(
                {"kind", "power_positive", "decay_positive", "power_negative", "decay_negative"}
            ),
        },
    ),
    ("objective", "centering"): _Kinds(
        "kind", "none", {"none": frozenset({"kind"}), "score": _fields(CenteringConfig)}
    ),
    ("objective", "weight"): _Kinds(
        "action",
        "none",
        {
            "none": frozenset({"action"}),
            "truncate": _fields(WeightConfig, "lower"),
            "clip": _fields(WeightConfig),
            "mask": _fields(WeightConfig),
        },
    ),
}


class Overlay:
    """A config under construction: plain data, and the position of each value."""

    def __init__(self, where: str) -> None:
        self.data: dict[str, Any] = {}
        self._marks: dict[KeyPath, Mark] = {(): Mark(where, where)}

    @property
    def document(self) -> Document:
        """The merged data with their positions."""
        return Document(self.data, self._marks)

    def copy(self) -> Self:
        """Copy, so that later merges into the copy do not reach the original."""
        fork = type(self)("")
        fork.data, fork._marks = copy.deepcopy(self.data), dict(self._marks)
        return fork

    def merge(self, path: KeyPath, value: object, source: Document, at: KeyPath) -> None:
        """Lay `value`, which stands at `at` in `source`, over what is at `path`."""
        if isinstance(value, dict):
            if not isinstance(self._get(path), dict):
                self._set(path, {}, source, at)
            elif path:
                self._marks[path] = _mark(source, at)
            kinds = _KINDS.get(path)
            # The kind goes first: switching must not drop keys that came with it.
            for key in sorted(value, key=lambda k: kinds is None or k != kinds.key):
                self.merge((*path, key), value[key], source, (*at, key))
        else:
            self._drop_keys_of_the_old_kind(path, value)
            self._set(path, value, source, at)

    def applies(self, path: KeyPath) -> bool:
        """Whether setting `path` means anything here: an axis over an absent part does not."""
        if path[0] == "perturbation" and len(path) > 1 and self.data.get("perturbation") is None:
            return False
        for section, kinds in _KINDS.items():
            if path[: len(section)] == section and len(path) > len(section):
                used = kinds.fields.get(self._kind(section, kinds), kinds.every)
                return path[len(section)] in used or path[len(section)] not in kinds.every
        return True

    def _drop_keys_of_the_old_kind(self, path: KeyPath, new: object) -> None:
        section, kinds = path[:-1], _KINDS.get(path[:-1])
        values = self._get(section)
        if kinds is None or path[-1] != kinds.key or not isinstance(values, dict):
            return
        if isinstance(new, str) and new in kinds.fields:
            old = kinds.fields.get(self._kind(section, kinds), frozenset())
            for key in [k for k in values if k in old - kinds.fields[new]]:
                del values[key]
                self._forget_below((*section, key))

    def _kind(self, section: KeyPath, kinds: _Kinds) -> str:
        values = self._get(section)
        kind = values.get(kinds.key, kinds.default) if isinstance(values, dict) else kinds.default
        return str(kind)

    def _get(self, path: KeyPath) -> Any:
        value: Any = self.data
        for key in path:
            value = value.get(key) if isinstance(value, dict) else None
        return value

    def _set(self, path: KeyPath, value: Any, source: Document, at: KeyPath) -> None:
        holder: dict[Any, Any] = self.data
        for depth, key in enumerate(path[:-1]):
            if not isinstance(holder.get(key), dict):
                holder[key] = {}
                self._marks[path[: depth + 1]] = _mark(source, at)
            holder = holder[key]
        holder[path[-1]] = value
        self._forget_below(path)
        self._marks[path] = _mark(source, at)
        if isinstance(value, list):
            below = [p for p in source.marks if len(p) > len(at) and p[: len(at)] == at]
            self._marks.update({(*path, *p[len(at) :]): source.marks[p] for p in below})

    def _forget_below(self, path: KeyPath) -> None:
        for known in [p for p in self._marks if p[: len(path)] == path]:
            del self._marks[known]


def is_kind(path: KeyPath) -> bool:
    """Whether `path` decides which other entries of its section mean something."""
    kinds = _KINDS.get(path[:-1])
    return kinds is not None and path[-1] == kinds.key


def _mark(source: Document, at: KeyPath) -> Mark:
    return Mark(source.position(at, key=True), source.position(at))
