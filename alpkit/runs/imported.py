"""`imported.json`: where an imported run's numbers come from, and what its dump did not hold.

A run that alpkit trained, or recorded inside another trainer, has no such file. Readers leave out what
needs a quantity of `absent`; nothing stands in for it.

    read_imported(folder)        # None for a run of alpkit's own
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Self

from alpkit.runs.faults import scan_mapping
from alpkit.runs.folder import RunFolder
from alpkit.runs.swap import write_json

ABSENCES: Final[Mapping[str, str]] = {
    "tokens": "token ids: no records, and nothing about ratios",
    "logp_rollout": "log mu: no ratio but pi_theta / pi_old",
    "logp_old": "log pi_old: neither mismatch nor staleness, and no method that uses pi_old",
    "logp_train": "log pi_theta: no tails, no kl/*, no replay",
    "entropy": "entropy: no train/entropy, no kl/k3_over_entropy",
    "reward": "rewards: no reward/*, and no share of removed tokens whose response was right",
    "advantage": "advantages: no loss in replay, and no count by their sign",
    "prompt": "prompts: intervals resample whole steps, and advantages are not computed again",
    "prompt_ids": "prompt ids: no gradients in replay",
    "keep": "which tokens the correction removed: neither kl/k3_kept nor kl/k3_removed",
    "update": "optimizer updates: a step counts as one mini-batch",
    "objective": "the objective: nothing to check a replay against, and no ratio/loss/*",
    "max_tokens": "the longest response allowed: no loss that divides by it",
}
"""What a dump may lack -> its name in words, and what is left out without it."""


@dataclass(frozen=True)
class Imported:
    """Facts of an import: the trainer's name, its files, and the keys of `ABSENCES` that apply."""

    trainer: str
    source: str
    absent: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, data: Mapping[str, object]) -> Self:
        """Take what `write_imported` wrote; a ValueError says what is wrong."""
        absent = data.get("absent")
        if not isinstance(absent, list):
            raise ValueError("absent is no list")
        trainer, source = (str(data.get(name, "")) for name in ("trainer", "source"))
        return cls(trainer, source, tuple(str(name) for name in absent))


def write_imported(folder: Path, imported: Imported) -> None:
    """Write a cell's `imported.json`."""
    write_json(RunFolder(folder).imported, asdict(imported))


def read_imported(folder: Path) -> Imported | None:
    """Read a cell's `imported.json`; None where it was not imported, `TrackingError` where it is damaged."""
    path = RunFolder(folder).imported
    if not path.is_file():
        return None
    fix = "import the dump again into a new folder"
    contents = scan_mapping(path, json.loads).strict("the import cannot be read", fix)
    return Imported.from_json(contents[0])
