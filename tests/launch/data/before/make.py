"""How this folder was made: by alpkit at commit dda03d0, whose cell ids hashed every field.

From an empty folder with `grid.yaml` in it, on that commit: `python make.py`. Then `runs/before` became
`grid/` (without its lock) and the rows of `mlflow.db` became `store.sql`: {root} stands for the folder.
"""

import os
import sqlite3
from contextlib import closing, suppress
from pathlib import Path

TABLES = (
    *("experiments", "experiment_tags", "runs", "tags", "params", "metrics", "latest_metrics"),
)


def run() -> None:
    from alpkit.config import expand, load_ablation
    from alpkit.launch import Options, run_grid

    options = Options(trainer="fake_trainer:train_cell", launcher="inline")
    # The arm `stopped` raises it, so that `waiting` never starts.
    with suppress(KeyboardInterrupt):
        run_grid(expand(load_ablation("grid.yaml")), options)


def rows() -> None:
    lines = []
    with closing(sqlite3.connect("mlflow.db")) as store:
        for table in TABLES:
            found = store.execute(f"select * from {table}")
            columns = [column[0] for column in found.description]
            for row in found:
                entry = dict(zip(columns, row))
                if entry.get("experiment_id") == 0:
                    continue
                entry |= {"user_id": "tester"} if table == "runs" else {}
                if entry.get("key") in ("mlflow.user", "alpkit.host"):
                    entry["value"] = "tester"
                values = ", ".join(quoted(value) for value in entry.values())
                lines.append(f"insert into {table} ({', '.join(columns)}) values ({values});")
    text = "\n".join(lines).replace(f"file://{os.getcwd()}", "file://{root}")
    Path("store.sql").write_text(text + "\n")


def quoted(value: object) -> str:
    if value is None:
        return "null"
    return "'" + value.replace("'", "''") + "'" if isinstance(value, str) else str(value)


if __name__ == "__main__":
    run()
    rows()
