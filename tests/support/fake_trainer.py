"""A trainer of milliseconds for tests of the launcher: `model` says how it misbehaves, at step 3.

It misbehaves until a file `fixed` lies in the grid's folder, and checkpoints every second step.
"""

import json
import logging
import os
import signal
import sys
import time
from pathlib import Path

from alpkit.errors import NumericalError
from alpkit.runs.notice import asked_to_stop, stopped
from alpkit.runs.swap import write_text

ORDERLY = {"name": "orderly", "preset": "grpo"}


def arm(name):
    return {"name": name, "preset": "grpo", "model": f"fake/{name}"}


def train_cell(config, folder: Path, tracker) -> None:
    checkpoint = folder / "checkpoint" / "step"
    done = int(checkpoint.read_text()) if checkpoint.exists() else None
    tracker.rewind(done)
    (folder / "attempts").open("a").write(f"{done}\n")
    (folder / "process.json").write_text(
        json.dumps(
            {
                "pid": os.getpid(),
                "env": {
                    k: os.environ.get(k)
                    for k in (
                        "OMP_NUM_THREADS",
                        "CUDA_VISIBLE_DEVICES",
                        "VLLM_CPU_OMP_THREADS_BIND",
                    )
                },
            }
        )
    )
    if done is None:
        tracker.log(0, {"eval/greedy": 0.5})
    for step in range((done or 0) + 1, config.train.steps + 1):
        if step == 3 and not (folder.parent / "fixed").exists():
            misbehave(config.model, folder)
        if config.model == "fake/slow":
            time.sleep(0.05)
        tracker.log(
            step,
            {
                "reward/mean": step / 64,
                "kl/k3": 0.25,
                "ratio/raw/token/width": 0.5,
                "kl/k1": float("nan"),
            },
        )
        if step % 2 == 0 and config.model != "fake/no-checkpoint":
            write_text(checkpoint, str(step))


def misbehave(model: str, folder: Path) -> None:
    print("this is stdout")
    sys.stderr.write("this is stderr\n")
    os.write(1, b"this is C\n")
    logging.getLogger("alpkit.fake").info("this is logging")
    match model:
        case "fake/raise-later":
            while len(list(folder.parent.glob("*/process.json"))) < 2:
                time.sleep(0.02)
            raise ValueError("the third step is wrong")
        case "fake/raise" | "fake/no-checkpoint":
            raise ValueError("the third step is wrong")
        case "fake/numerical":
            raise NumericalError("too much is nan", where="step 3", why="share 0.5", fix="stop")
        case "fake/segv":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "fake/exit":
            os._exit(7)
        case "fake/interrupt":
            raise KeyboardInterrupt
        case "fake/sleep":
            for _ in range(12_000):
                if asked_to_stop():
                    raise stopped(2)
                time.sleep(0.05)
        case "fake/deaf":
            time.sleep(600)
