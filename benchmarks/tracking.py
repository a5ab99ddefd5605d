"""What tracking costs a step, at 60 and at 400 keys: the run's own line of metrics, and the store beside it.

    python benchmarks/tracking.py [--steps 200]

The trainer waits for `CellTracker.log` alone; MLflow is sent to in another thread of the parent. The share is of
a step of a second: the quickstart's take longer.
"""

import argparse
import tempfile
import time
from pathlib import Path

from measuring import table

from alpkit.metrics import RATIO_KINDS, RATIO_LEVELS, RATIO_STATS
from alpkit.runs.steps import CellTracker
from alpkit.tracking import prepare_store
from alpkit.tracking.sink import MlflowSink


def keys(count: int) -> list[str]:
    """Give so many keys of the closed list."""
    return [
        f"ratio/{kind}/{level}/{stat}"
        for kind in RATIO_KINDS
        for level in RATIO_LEVELS
        for stat in RATIO_STATS
    ][:count]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=200)
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        store = prepare_store(f"sqlite:///{name}/mlflow.db")
        experiment = store.experiment("tracking")
        parent = store.open_parent(experiment, "tracking", {})
        for count in (60, 400):
            names = keys(count)
            folder = Path(name) / str(count)
            tracker = CellTracker(folder)
            run = store.create_child(experiment, parent, f"cell-{count}", tags={}, params={})
            sink = MlflowSink(store.client, store.uri, run)
            waited = sent = 0.0
            for step in range(options.steps):
                metrics = {key: step + i / count for i, key in enumerate(names)}
                start = time.perf_counter()
                tracker.log(step, metrics)
                waited += time.perf_counter() - start
                start = time.perf_counter()
                sink.add(step, metrics)
                sent += time.perf_counter() - start
            start = time.perf_counter()
            sink.flush()
            sent += time.perf_counter() - start
            line = (folder / "metrics.jsonl").stat().st_size / options.steps
            one = waited / options.steps
            rows.append(
                [len(names), 1e3 * one, f"{one:.3%}", 1e3 * sent / options.steps, f"{line:,.0f}"]
            )
    columns = [
        "keys",
        "trainer waits, ms",
        "of a step of 1 s (asked <= 1 %)",
        "store, ms",
        "bytes a line",
    ]
    print(table(columns, rows))


if __name__ == "__main__":
    main()
