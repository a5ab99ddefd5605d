"""Questions from a data file or a data set on the hub, read through `datasets`.

Columns may be nested (`reward_model.ground_truth`), and a column of chat messages gives its user's text: what
published RL sets look like. docs/tasks.md shows examples.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, assert_never

from alpkit.config.tasks import FileConfig
from alpkit.errors import ConfigError, PrerequisiteError
from alpkit.tasks.grading import ExactGrader, Grader, NumberGrader
from alpkit.tasks.listed import ListedTask, Row, listed

if TYPE_CHECKING:
    from datasets import Dataset

_FORMATS = {".parquet": "parquet", ".jsonl": "json", ".json": "json", ".csv": "csv"}
_SHOWN = 3
"""Unreadable answers that an error lists."""


def load(config: FileConfig, *, check: bool = False) -> ListedTask:
    """Build the task of a configuration section; `check` reads every right answer as the grader would."""
    data = read_data(
        config.path, split=config.split, subset=config.subset, revision=config.revision
    )
    rows = list(_rows(data, config))
    grader = _grader(config)
    if check:
        refuse_unreadable(grader, rows)
    return listed("file", rows, grader, config.held_out)


def read_data(
    path: str, *, split: str = "train", subset: str | None = None, revision: str | None = None
) -> "Dataset":
    """Open a data file or a hub data set; raises one clear error for whatever is missing."""
    try:
        # Imported late: it takes seconds.
        import datasets
    except ImportError as error:
        raise PrerequisiteError(
            "data files need the package datasets",
            where="task.path",
            why=str(error),
            fix='pip install "alpkit[tasks]"',
        ) from error
    datasets.disable_progress_bars()
    place = Path(path).expanduser()
    suffix = place.suffix.lower()
    if suffix not in _FORMATS and (place.exists() or path.startswith((".", "/", "~"))):
        raise ConfigError(
            f"{path} is no data file",
            where="task.path",
            fix=f"name a file that ends in {', '.join(_FORMATS)}, or the id of a hub data set",
        )
    if suffix in _FORMATS:
        if not place.is_file():
            raise PrerequisiteError(
                f"data file {path} does not exist",
                where="task.path",
                why=f"looked for it from {Path.cwd()}",
                fix="correct the path; relative ones start at the working directory",
            )
        return _local(place, _FORMATS[suffix])
    try:
        return datasets.load_dataset(path, subset, split=split, revision=revision)
    except Exception as error:  # datasets raises whatever its many back ends do
        raise PrerequisiteError(
            f"data set {path} (split {split}) cannot be loaded from the hub",
            where="task.path",
            why=_first_line(error),
            fix="check id, subset and split; without a network download it where there is one and name the "
            "file, or set HF_HOME to a cache that holds it",
        ) from error


def _local(path: Path, kind: str) -> "Dataset":
    import datasets

    try:
        # A cache of their own would be written for every file that is read once.
        match kind:
            case "parquet":
                import pyarrow.parquet

                return datasets.Dataset(pyarrow.parquet.read_table(path))
            case "csv":
                import pandas

                # Answers are text: 007 and 1.0 must not become numbers.
                frame = pandas.read_csv(path, dtype=str, keep_default_na=False)
                return datasets.Dataset.from_pandas(frame, preserve_index=False)
            case _:
                return datasets.Dataset.from_list(_json_rows(path))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{path} cannot be read as {kind}",
            where="task.path",
            why=_first_line(error),
            fix="repair the file, or give it the ending of what it holds",
        ) from error


def _json_rows(path: Path) -> list[dict[str, object]]:
    import json

    text = path.read_text(encoding="utf-8")
    if path.suffix.lower() == ".json":
        rows = json.loads(text)
    else:
        rows = []
        for number, line in enumerate(text.splitlines(), start=1):
            try:
                rows += [json.loads(line)] if line.strip() else []
            except ValueError as error:
                raise ValueError(f"line {number}: {error}") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError("wanted a list of mappings, one per question")
    return rows


def _rows(data: "Dataset", config: FileConfig) -> Iterator[Row]:
    if not len(data):
        raise ConfigError(
            f"{config.path} (split {config.split}) has no rows",
            where="task.path",
            fix="choose a file or a split that has some",
        )
    for key, column in (("prompt", config.prompt), ("answer", config.answer)):
        if column.split(".")[0] not in data.column_names:
            raise ConfigError(
                f"{config.path} has no column {column.split('.')[0]!r}",
                where=f"task.{key}",
                why=f"its columns are {', '.join(data.column_names)}",
                fix=f"set task.{key} to one of them",
            )
    for number, row in enumerate(data):
        where = f"{config.path} row {number}"
        answer = _text(row, config.answer, where, "answer")
        if config.answer_after is not None:
            _, found, answer = answer.rpartition(config.answer_after)
            if not found:
                raise ConfigError(
                    f"the answer does not contain {config.answer_after!r}",
                    where=where,
                    fix="correct task.answer_after, or the row",
                )
        yield Row(_text(row, config.prompt, where, "prompt"), answer.strip(), where)


def _text(row: Mapping[str, object], column: str, where: str, key: str) -> str:
    value: Any = row
    for part in column.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    if key == "prompt" and isinstance(value, list) and value and isinstance(value[0], Mapping):
        value = next((m.get("content") for m in reversed(value) if m.get("role") == "user"), None)
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not value.strip():
        raise ConfigError(
            f"column {column} holds no text",
            where=where,
            why=f"it holds {value!r:.80}",
            fix=f"set task.{key} to a column of text (a.b for one inside mappings), or remove the row",
        )
    return value


def _grader(config: FileConfig) -> Grader:
    match config.grader:
        case "exact":
            return ExactGrader()
        case "number":
            return NumberGrader()
        case "math":
            from alpkit.tasks.math.grader import MathGrader

            return MathGrader(tail=config.tail, deadline=config.deadline)
        case unknown:
            assert_never(unknown)


def refuse_unreadable(grader: Grader, rows: Sequence[Row]) -> None:
    """Raise `ConfigError` for right answers that no response could match."""
    faults = grader.faults([row.answer for row in rows])
    if faults:
        shown = [f"{rows[i].where}: {rows[i].answer[:60]!r}: {why}" for i, why in faults.items()]
        more = f"\n       and {len(shown) - _SHOWN} more" if len(shown) > _SHOWN else ""
        raise ConfigError(
            f"the grader cannot read {len(shown)} of {len(rows)} right answers",
            where="task.answer",
            why="\n       ".join(shown[:_SHOWN]) + more,
            fix="correct or remove the rows, name another column, or choose another task.grader",
        )


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
