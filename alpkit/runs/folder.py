"""Name everything in a grid's folder and in a cell's. Nothing here reads or writes.

What is set aside keeps its name between a dot and `.set-aside`.

    runs/<grid>/                   GridFolder
        grid.json                  manifest of the grid
        .lock                      held by the process that runs the grid
        <cell_id>/                 RunFolder
            config.yaml            the resolved configuration
            cell.json              state
            metrics.jsonl          a line per step
            spikes.jsonl           a line per spike
            evaluations.jsonl      a line per evaluation of a set: how often each item was solved
            batching.npy           what batching alone does to the trainer's log-probs
            imported.json          of another trainer's run: whose, and what its dump lacked
            log.txt                what the worker printed
            records/               tokens and sequences of recorded steps
            checkpoint/step-…/     what training goes on from
            replay/step-…/         the policy from before a recorded step
            profile/               a step's trace and where its time went (`alpkit run --profile`)

Usage: `RunFolder(folder).metrics`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

RUNS: Final = "runs"
"""The folder of all grids, in the working directory."""
REPORTS: Final = "reports"
"""The folder of all reports, in the working directory."""
MANIFEST_FILE: Final = "grid.json"
CONFIG_FILE: Final = "config.yaml"
"""Also the name of a cell's configuration among its MLflow artifacts, as the manifest's is there."""
_STEP: Final = "step-"


@dataclass(frozen=True)
class RunFolder:
    """The files of one cell."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / CONFIG_FILE

    @property
    def state(self) -> Path:
        return self.path / "cell.json"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def spikes(self) -> Path:
        return self.path / "spikes.jsonl"

    @property
    def evaluations(self) -> Path:
        return self.path / "evaluations.jsonl"

    @property
    def batching(self) -> Path:
        return self.path / "batching.npy"

    @property
    def imported(self) -> Path:
        return self.path / "imported.json"

    @property
    def log(self) -> Path:
        return self.path / "log.txt"

    @property
    def records(self) -> Path:
        return self.path / "records"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoint"

    @property
    def replay(self) -> Path:
        return self.path / "replay"

    @property
    def profile(self) -> Path:
        return self.path / "profile"

    @property
    def profile_table(self) -> Path:
        return self.profile / "table.md"

    @property
    def profile_trace(self) -> Path:
        return self.profile / "trace.json.gz"

    @property
    def grid(self) -> "GridFolder":
        """The grid that the cell belongs to."""
        return GridFolder(self.path.parent)

    @property
    def has_checkpoint(self) -> bool:
        """Whether training can go on; a half-written checkpoint does not count."""
        return any(self.checkpoints.glob("[!.]*"))


@dataclass(frozen=True)
class GridFolder:
    """The files of one grid."""

    path: Path

    @property
    def manifest(self) -> Path:
        return self.path / MANIFEST_FILE

    @property
    def lock(self) -> Path:
        return self.path / ".lock"

    def run(self, cell_id: str) -> RunFolder:
        """The folder of one cell."""
        return RunFolder(self.path / cell_id)

    def runs(self) -> list[RunFolder]:
        """Every cell's folder that holds a configuration, listed by the manifest or not, by name."""
        return [RunFolder(path.parent) for path in sorted(self.path.glob(f"[!.]*/{CONFIG_FILE}"))]


def grid_folder(root: Path, name: str) -> Path:
    """Folder of the grid `name` under `root`."""
    return root / RUNS / name


def report_page(grid: str, grid_id: str, root: Path = Path(".")) -> Path:
    """Give the path of a grid's report: its name and the first eight digits of its id."""
    name = "-".join(part.replace("/", "_") for part in (grid, grid_id[:8]) if part)
    return root / REPORTS / name / "report.html"


def grid_folders(root: Path) -> list[Path]:
    """Folders under `root` that hold a manifest, by name."""
    return sorted(path.parent for path in (root / RUNS).glob(f"*/{MANIFEST_FILE}"))


def step_folder(folder: Path, step: int) -> Path:
    """Give the folder of one step's checkpoint inside `folder`."""
    return folder / f"{_STEP}{step:06d}"


def step_folders(folder: Path) -> dict[int, Path]:
    """List the complete checkpoints in `folder` by step, ascending."""
    numbered = ((path.name.removeprefix(_STEP), path) for path in folder.glob(f"{_STEP}*"))
    return dict(sorted((int(step), path) for step, path in numbered if step.isdigit()))


def is_file_name(text: str) -> bool:
    """Whether a text can name one thing in a folder, and nothing outside of it."""
    return text not in ("", ".", "..") and "/" not in text and "\0" not in text and len(text) < 256


def set_aside(path: Path) -> Path:
    """Rename a checkpoint or a file so that nobody takes it for one; give its new name."""
    number, aside = 0, path.with_name(f".{path.name}.set-aside")
    while aside.exists():
        number += 1
        aside = path.with_name(f".{path.name}.set-aside-{number}")
    path.rename(aside)
    return aside
