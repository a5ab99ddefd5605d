"""Run cells one after another in this process: for debuggers and profilers."""

from collections.abc import Mapping, Sequence
from contextlib import suppress

from alpkit.launch.base import CellTask, Ended, OnEvent, Started, Stepped
from alpkit.launch.cell import failure_text, run_cell
from alpkit.runs.folder import RunFolder


class Inline:
    """The `Launcher` without processes; output stays on the terminal, errors also go to the log."""

    def run(self, tasks: Sequence[CellTask], on_event: OnEvent, *, fail_fast: bool) -> None:
        """Run `tasks` in order."""
        for task in tasks:
            on_event(Started(task.cell_id))
            error = self._run(task, on_event)
            if error is None:
                on_event(Ended(task.cell_id, "finished"))
                continue
            on_event(Ended(task.cell_id, "failed", error))
            if fail_fast:
                return

    def _run(self, task: CellTask, on_event: OnEvent) -> str | None:
        def on_step(step: int, metrics: Mapping[str, float]) -> None:
            on_event(Stepped(task.cell_id, step, metrics))

        try:
            run_cell(task, on_step)
        except Exception as error:
            text = failure_text(error)
            # A full disk must not cost the error that it made.
            with suppress(OSError), RunFolder(task.folder).log.open("a", encoding="utf-8") as log:
                log.write(text + "\n")
            return text
        except BaseException:
            on_event(Ended(task.cell_id, "killed", "interrupted"))
            raise
        return None
