"""Turn another trainer's token dump into a run folder that `analyze`, `compare` and `replay` read.

    from alpkit.integrations.importing import Known, import_run
    import_run("outputs/token_exports", "runs/theirs/seed-0", Known(arm="prime-rl"))

The whole dump is read once before anything is created, so that a bad file leaves nothing behind. What it
lacks is said and kept (`alpkit.runs.imported`), and what needs it is left out. Not here: the formats
(`columns`, `prime_rl`, `verl`), the files that are written (`alpkit.integrations.foreign_run`).
"""

from pathlib import Path
from typing import Final, NamedTuple

from pydantic import ValidationError

from alpkit.config.files.faults import explain
from alpkit.config.files.yaml import Document
from alpkit.config.grid.own_methods import is_method_file, load_method
from alpkit.config.hardware import HardwareConfig
from alpkit.config.presets import preset
from alpkit.config.run import RunConfig
from alpkit.errors import ConfigError, TrackingError
from alpkit.integrations.foreign_run import LOGPS, ForeignConfig, ForeignRun, refuse_another_run
from alpkit.integrations.importing import columns, prime_rl, verl
from alpkit.integrations.importing.dump import Dump, refuse
from alpkit.integrations.importing.known import Known
from alpkit.runs.imported import ABSENCES, Imported

__all__ = ["Done", "Known", "import_run"]

_COLUMNS: Final = (*LOGPS, "entropy", "advantage", "keep")


class Done(NamedTuple):
    """A finished import: where it lies, what was read, and what it lacked."""

    folder: Path
    steps: list[int]
    responses: int
    tokens: int
    imported: Imported


class _Contents(NamedTuple):
    """The contents of a dump, as one pass over it found them."""

    steps: list[int]
    responses: int
    tokens: int
    longest: int
    absent: tuple[str, ...]


def import_run(source: Path | str, folder: Path | str, known: Known | None = None) -> Done:
    """Write `folder` (runs/<grid>/<cell>) from the dump at `source`.

    Raises `TrackingError` with file and line for what cannot be read, and for a folder that holds
    something already; `ConfigError` for an unknown preset or a broken method file. Nothing is created then.
    """
    known, source, folder = known or Known(), Path(source), Path(folder)
    if folder.exists() and any(folder.iterdir() if folder.is_dir() else [folder]):
        refuse_another_run(folder, 0)
        raise TrackingError(
            "the folder is not empty",
            where=str(folder),
            why="an import is a run of its own",
            fix="name a new folder: runs/<grid>/<cell>",
        )
    dump = _dump(source, known)
    contents = _look(dump, known)
    config = _config(known, contents)
    imported = Imported(dump.trainer, str(source), contents.absent)
    arm = known.arm or dump.trainer
    run = ForeignRun(folder, arm=arm, note=_note(folder, imported), imported=imported)
    run.begin(config, done=0)
    for step, responses in dump.steps():
        run.write(step, responses, loss=None, record=True)
    run.end(contents.steps[-1])
    return Done(folder, contents.steps, contents.responses, contents.tokens, imported)


def _dump(source: Path, known: Known) -> Dump:
    """Open the dump with the reader of its format."""
    if not source.exists():
        raise refuse(str(source), "there is nothing to import", "", "name a file or a folder")
    trainer = known.trainer
    if trainer == "auto":
        trainer = "columns"
        if prime_rl.looks_like(source):
            trainer = "prime-rl"
        elif verl.looks_like(source):
            trainer = "verl"
    match trainer:
        case "prime-rl":
            if known.columns:
                raise refuse(
                    "--map",
                    "prime-rl's token export has names of its own",
                    "its columns are known",
                    "leave --map out, or say --from columns",
                )
            return prime_rl.PrimeRlDump(source)
        case "verl":
            return verl.dump(source, known.columns)
        case _:
            return columns.read(source, known.columns)


def _look(dump: Dump, known: Known) -> _Contents:
    """Read the whole dump once: how much it holds, and what it lacks."""
    steps: list[int] = []
    responses = tokens = longest = 0
    have = {*_COLUMNS, "reward", "prompt", "prompt_ids"}
    for step, batch in dump.steps():
        steps.append(step)
        responses += len(batch)
        for response in batch:
            tokens += len(response)
            longest = max(longest, len(response.response_ids))
            have -= {name for name in _COLUMNS if name not in response.tokens}
            have -= {"reward"} if response.reward is None else set()
            if response.prompt_ids is None:
                have -= {"prompt_ids"} if response.prompt is not None else {"prompt_ids", "prompt"}
    if not steps:
        raise refuse(dump.place, "the dump holds no response", "", "name the folder that has them")
    have |= {"tokens"} if tokens else set()
    have |= {"update"} if dump.knows_updates else set()
    have |= {"objective"} if known.objective else set()
    have |= {"max_tokens"} if known.max_tokens else set()
    if "tokens" not in have:  # whatever else is not there follows from it
        have |= set(ABSENCES) - {"tokens", "reward", "objective"}
    return _Contents(
        steps, responses, tokens, longest, tuple(name for name in ABSENCES if name not in have)
    )


def _config(known: Known, contents: _Contents) -> ForeignConfig:
    """Say what is known as fields of a RunConfig, and check that they make one."""
    longest = max(contents.longest, known.max_tokens or 0)
    config: ForeignConfig = {
        "seed": known.seed,
        "train": {"steps": max(contents.steps[-1], 1)},
        "records": {"every": 1},
        "hardware": {"micro_batch_tokens": max(HardwareConfig().micro_batch_tokens, 4 * longest)},
    }
    if known.model is not None:
        config["model"] = known.model
    rollout = {"max_tokens": known.max_tokens, "temperature": known.temperature}
    told: dict[str, object] = {name: v for name, v in rollout.items() if v is not None}
    if told:
        config["rollout"] = told
    if known.objective is not None:
        config["objective"] = _objective(known.objective)
    try:
        RunConfig.model_validate(config)
    except ValidationError as error:
        document = Document.constant(dict(config), "the options of the import")
        raise explain(error, document, model=RunConfig) from error
    return config


def _objective(name: str) -> dict[str, object]:
    if is_method_file(name):
        run = load_method(name).run
    else:
        run = RunConfig.model_validate(preset(name, where="--objective").settings)
    if run.perturbation is not None:
        raise ConfigError(
            f"{name} trains with noise",
            where="--objective",
            why="no dump that is read here has the log-probs of the noisy policy",
            fix="leave --objective out: tails and other methods' weights need none",
        )
    return run.objective.model_dump(mode="json")


def _note(folder: Path, imported: Imported) -> str:
    lacks = "; ".join(ABSENCES[name] for name in imported.absent)
    return (
        f"{folder.name} was imported ({imported.trainer}); its dump lacks {lacks}"
        if lacks
        else f"{folder.name} was imported ({imported.trainer})"
    )
