"""Read verl's rollout dumps: `<step>.jsonl` in `trainer.rollout_data_dir`, a line per response.

verl writes texts and scores: `input`, `output`, `gts`, `score`, `step`, and whatever lists its reward
function returned. No token and no log-prob is among them, so that such a dump gives rewards alone; lists
that one's own code adds are named with `--map`. Written from verl 0.9's trainer.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from alpkit.integrations.importing import columns
from alpkit.integrations.importing.dump import refuse

NAMES: Final[Mapping[str, str]] = {"reward": "score", "prompt": "input", "step": "step"}


def looks_like(source: Path) -> bool:
    """Whether a folder holds files that are named by step, as verl's are."""
    return source.is_dir() and bool(_files(source))


def dump(source: Path, mapping: Mapping[str, str]) -> columns.ColumnsDump:
    """Read a folder of dumps, or one of them."""
    files = _files(source) if source.is_dir() else [source]
    if not files:
        raise refuse(
            str(source),
            "no rollout dump of verl",
            "it has no <step>.jsonl",
            "name the folder of trainer.rollout_data_dir",
        )
    return columns.read_files(files, {**NAMES, **mapping}, source=source, trainer="verl")


def _files(source: Path) -> list[Path]:
    named = [path for path in source.glob("*.jsonl") if path.stem.isdigit()]
    return sorted(named, key=lambda path: int(path.stem))
