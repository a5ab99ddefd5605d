"""Choose the metrics that go to MLflow, and the order in which its charts show them.

Every metric stays in the cell's `metrics.jsonl`: 400 keys of 2,000 steps of 60 cells would be 50 million
rows of a database. Not here: sending them (`alpkit.tracking`).
"""

import re
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from functools import cache
from typing import Final

from pydantic import field_validator

from alpkit.config.base import Section
from alpkit.errors import did_you_mean
from alpkit.metrics import known_keys

DEFAULT: Final = "default"
ALL: Final = "all"
_RAW: Final = "ratio/raw"
SECTIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "Reward": (
        *("reward/mean", "eval/greedy", "eval/avg_at_k", "eval/pass_at_k"),
        *("reward/std", "reward/solved_all", "reward/solved_none"),
        *("response/length_mean", "response/finished"),
    ),
    "Distance to the sampler": (
        *("kl/k3", "kl/k3_max", "kl/k1", "kl/spike"),
        *(f"{_RAW}/token/{stat}" for stat in ("width", "p02", "p98", "std", "min", "max", "ess")),
    ),
    "Tail": (
        *(f"{_RAW}/token/{stat}" for stat in ("khat_right", "khat_left", "p999", "top1_share")),
        *(f"{_RAW}/product/{stat}" for stat in ("khat_right", "khat_left", "p02", "p98", "ess")),
    ),
    "Where the ratio comes from": (
        "ratio/mismatch/token/std",
        "ratio/staleness/token/std",
        "ratio/perturbation/token/std",
    ),
    "What the correction did": tuple(
        f"receipt/{name}"
        for name in (
            *("surviving", "clipped_low", "clipped_high", "truncated", "masked", "rejected"),
            *("weight_removed", "advantage_removed", "saturated"),
        )
    ),
    "Training": tuple(
        f"train/{name}"
        for name in ("loss", "entropy", "grad_norm", "grad_norm_max", "skipped_updates", "spike")
    ),
    "Noise": (
        *("sigma/mean", "sigma/min", "sigma/max", "noise/realised_std", "noise/realised_ratio"),
        *("noise/to_rms", "noise/signal_to_noise"),
    ),
    "Health and cost": (
        *("probe/gap_mean", "nonfinite/rollout_logp", "policy/lag"),
        *("time/step", "time/rollout", "time/update", "time/eval", "memory/peak"),
        *("progress/tokens",),
    ),
}
"""The default selection, in sections of MLflow's chart view: what is read first stands first."""
_MORE: Final = ("eval/*/greedy", "eval/*/avg_at_k", "eval/*/pass_at_k", "perf/*")
"""Part of the default selection too: families whose members depend on the run."""


class TrackingConfig(Section):
    """What goes to MLflow. No part of a cell's id; everything is in the run folder whatever stands here."""

    metrics: tuple[str, ...] = (DEFAULT,)
    """Metric keys, or patterns such as `ratio/raw/*`; default: about 60 that are looked at; all: every one."""

    @field_validator("metrics", mode="before")
    @classmethod
    def _one_is_a_list_of_one(cls, value: object) -> object:
        return [value] if isinstance(value, str) else value

    @field_validator("metrics")
    @classmethod
    def _each_chooses_something(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in value:
            if not _chooses_something(pattern):
                near = did_you_mean(pattern, [DEFAULT, ALL, *known_keys()])
                raise ValueError(
                    f"metrics: no metric is called {pattern!r} or matches it"
                    f"{'; ' + near if near else ''}; docs/metrics.md lists all of them"
                )
        return value


def tracked(patterns: Iterable[str], key: str) -> bool:
    """Whether a selection takes a metric."""
    return _taken(tuple(patterns), key)


@cache
def _taken(patterns: tuple[str, ...], key: str) -> bool:
    return any(fnmatchcase(key, pattern) for pattern in _spelled_out(patterns))


@cache
def _spelled_out(patterns: tuple[str, ...]) -> tuple[str, ...]:
    everything: list[str] = []
    for pattern in patterns:
        match pattern:
            case "all":
                everything.append("*")
            case "default":
                everything += [key for keys in SECTIONS.values() for key in keys]
                everything += _MORE
            case _:
                everything.append(pattern)
    return tuple(everything)


def _chooses_something(pattern: str) -> bool:
    if pattern in (DEFAULT, ALL):
        return True
    # `layer_{nn}` and `{set}` stand for what a run decides.
    families = (re.sub(r"\{\w+\}", "00", key) for key in known_keys())
    wild = re.sub(r"(layer_)\d+$", r"\g<1>00", pattern)
    wild = re.sub(r"^eval/[^/*]+/", "eval/00/", wild)
    return any(fnmatchcase(key, wild) for key in families)
