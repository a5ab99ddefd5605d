"""The experiments that come with the package: what there is, and copies to work on.

In a checkout they lie in `experiments/`; the wheel carries the same files.
"""

import re
from pathlib import Path
from typing import Final, NamedTuple

from alpkit.config.files.yaml import load_yaml
from alpkit.errors import GridError, did_you_mean

FOLDER: Final = Path(__file__).parents[1] / "experiments"
ALL: Final = "all"
_COMMENT: Final = re.compile(r"^# (\w+): (.*(?:\n#   .*)*)", re.M)


class Example(NamedTuple):
    """One shipped grid: its name (path without ending), its question, and what it costs."""

    name: str
    question: str
    cost: str
    path: Path


def examples() -> list[Example]:
    """List the shipped grids, by name."""
    found = []
    for path in sorted(FOLDER.rglob("*.yaml")):
        data = load_yaml(path).data
        if "arms" in data:
            told = dict(_COMMENT.findall(path.read_text(encoding="utf-8")))
            cost = " ".join(told.get("Cost", "").replace("\n#", " ").split())
            name = path.relative_to(FOLDER).with_suffix("").as_posix()
            found.append(Example(name, str(data.get("question", "")), cost, path))
    return sorted(found, key=lambda each: (each.name.count("/"), each.name))


def copy(names: list[str], to: Path, *, force: bool = False) -> list[Path]:
    """Copy grids (`all`: every one) with the files that they name into a folder; give what was written.

    Raises `GridError` before anything is written for an unknown name, and for a file that would be
    overwritten with another content unless `force`.
    """
    known = {each.name: each for each in examples()}
    for name in names:
        if name not in known and name != ALL:
            raise GridError(
                f"there is no example {name!r}",
                why=f"there are: {', '.join(known)}",
                fix=did_you_mean(name, known) or "use one of them, or all",
            )
    chosen = [each for name, each in known.items() if name in names or ALL in names]
    sources = dict.fromkeys(path for each in chosen for path in _files(each.path))
    texts = {to / path.relative_to(FOLDER): path.read_text(encoding="utf-8") for path in sources}
    for path, text in texts.items():
        if path.exists() and not force and path.read_text(encoding="utf-8") != text:
            raise GridError(
                "would be overwritten",
                where=str(path),
                why="it is another file than the shipped one",
                fix="choose another folder with --to, or say --force",
            )
    for path, text in texts.items():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise GridError("cannot be written", where=str(path), why=str(error)) from error
    return list(texts)


def _files(path: Path) -> list[Path]:
    """A grid, the method and data files that it names, and the schema that editors check it by."""
    text = path.read_text(encoding="utf-8")
    data = load_yaml(path).data
    methods = data.get("methods") or []
    # A data file is named from the working directory, in which experiments/ lies.
    task = (data.get("base") or {}).get("task") or {}
    held = FOLDER.parent / str(task.get("path", ""))
    schemas = re.findall(r"^# yaml-language-server: \$schema=(\S+)", text)
    others = [(path.parent / name).resolve() for name in [*methods, *schemas]]
    others += [held.resolve()] if held.is_file() else []
    below = [FOLDER / other.relative_to(FOLDER.resolve()) for other in others if other.is_file()]
    nested = [file for other in below if other.suffix == ".yaml" for file in _files(other)]
    return [path, *below, *nested]
