"""Every cell with its state."""

import pandas as pd

from alpkit.analysis.frames import GridFrame
from alpkit.analysis.tables import Table
from alpkit.analysis.text import DASH, first_line


def cells_table(frame: GridFrame) -> Table:
    """Every cell with its state; failures are listed, never averaged over."""
    columns = ["arm", "seed", "state", "steps_done", "steps_planned", "cell_id", "run_id", "error"]
    data = frame.cells[columns]
    steps = [
        f"{done} of {int(planned)}" if pd.notna(planned) else str(done)
        for done, planned in zip(data["steps_done"], data["steps_planned"])
    ]
    shown = pd.DataFrame(
        {
            "arm": data["arm"],
            "seed": data["seed"].astype(str),
            "state": data["state"],
            "steps": steps,
            "cell": data["cell_id"],
            "error": [first_line(text) for text in data["error"]],
        }
    )
    if (shown["error"] == DASH).all():
        shown = shown.drop(columns="error")
    caption = "Only finished cells enter tables and means."
    return Table("cells", "Cells", caption, data, shown)
