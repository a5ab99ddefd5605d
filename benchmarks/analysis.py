"""Seconds and memory of `analysis.analyze` on synthetic grids: one of the quickstart's size, one of 10^8 tokens.

`python benchmarks/analysis.py` writes docs/benchmarks-analysis.md; it needs about 4 GB in the temporary
folder and takes some ten minutes, most of them to write the records. `--tokens 1e6` shrinks the large grid
and only prints.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import yaml

from alpkit.config import PRESETS, RunConfig
from alpkit.metrics import RATIO_STATS
from alpkit.runs.records import RecordWriter

ARMS = (
    "grpo", "gspo", "token-tis", "seq-mis", "seq-bypass", "seq-alp", "token-bypass", "token-alp",
    "icepop", "geo-rs", "k3-rs", "opsm",
)  # fmt: skip
CONTROLS = {
    "token-tis": "grpo",
    "seq-mis": "grpo",
    "seq-alp": "seq-bypass",
    "token-alp": "token-bypass",
}
PROMPTS, GROUP = 64, 8


class Size(NamedTuple):
    """A grid to build: every cell records every `every` steps, so many tokens each time."""

    name: str
    arms: int
    seeds: int
    steps: int
    every: int
    tokens: int

    @property
    def recorded(self) -> list[int]:
        return sorted({1, *range(self.every, self.steps + 1, self.every)})

    @property
    def total(self) -> int:
        return self.arms * self.seeds * len(self.recorded) * self.tokens


class Cost(NamedTuple):
    """What one analysis took, in a process of its own."""

    seconds: float
    cpu: float
    gigabytes: float


def build(root: Path, size: Size) -> None:
    """Write the grid as a run leaves it."""
    folder = root / "runs" / size.name
    cells = []
    for arm in ARMS[: size.arms]:
        for seed in range(size.seeds):
            cell = {"cell_id": f"{ARMS.index(arm):02d}{seed:02d}abcdef", "arm": arm, "seed": seed}
            write_cell(folder / cell["cell_id"], arm, seed, size)
            cells.append({**cell, "axes": {}, "run_id": cell["cell_id"], "state": "finished"})
    controls = {a: c for a, c in CONTROLS.items() if {a, c} <= set(ARMS[: size.arms])}
    manifest = {"grid": size.name, "grid_id": "0123456789", "question": "How long does it take?"}
    manifest |= {"created": "2026-01-02T03:04:05+00:00", "controls": controls, "cells": cells}
    (folder / "grid.json").write_text(json.dumps(manifest))


def write_cell(folder: Path, arm: str, seed: int, size: Size) -> None:
    folder.mkdir(parents=True)
    settings = {**PRESETS[arm].settings, "seed": seed, "train": {"steps": size.steps}}
    config = RunConfig.model_validate(settings).model_dump(mode="json")
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    state = {
        "cell_id": folder.name,
        "arm": arm,
        "seed": seed,
        "grid": size.name,
        "state": "finished",
    }
    (folder / "cell.json").write_text(json.dumps({**state, "steps_done": size.steps}))
    rng = np.random.default_rng([seed, ARMS.index(arm)])
    with (folder / "metrics.jsonl").open("w") as file:
        for line in metric_lines(rng, size.steps):
            file.write(json.dumps(line) + "\n")
    writer = RecordWriter(folder / "records")
    for step in size.recorded:
        tokens, sequences = rows(rng, size.tokens, noisy="alp" in arm)
        writer.write(step, tokens, sequences)


def metric_lines(rng: np.random.Generator, steps: int):
    """About 200 keys a line, as many as a run with three ratio kinds logs."""
    keys = [
        f"ratio/{kind}/{level}/{stat}"
        for kind in ("raw", "mismatch", "staleness")
        for level in ("token", "geometric", "product")
        for stat in RATIO_STATS
    ]
    keys += ["reward/mean", "train/grad_norm", "train/entropy", "kl/k1", "kl/k3", "kl/k3_max"]
    keys += ["ratio/raw/token/width", "kl/spike_z", "time/step", "progress/tokens"]
    keys += [f"receipt/{name}" for name in ("clipped_low", "clipped_high", "masked", "truncated")]
    keys += [f"receipt/{name}" for name in ("weight_removed", "surviving", "rejected", "saturated")]
    keys += [f"sigma/layer_{i:02d}" for i in range(24)]
    yield {"step": 0, "eval/greedy": 0.4, "eval/avg_at_k": 0.3, "eval/pass_at_k": 0.5}
    for step in range(1, steps + 1):
        line = dict(zip(keys, np.abs(rng.normal(0.3, 0.1, len(keys))).tolist()))
        line |= {"step": step, "kl/spike": float(rng.random() < 0.002)}
        if step % 50 == 0:
            line |= {f"eval/{name}": rng.random() for name in ("greedy", "avg_at_k", "pass_at_k")}
        yield line


def rows(rng: np.random.Generator, n: int, *, noisy: bool):
    """One step's tokens and sequences; responses of unequal length, log ratios with exponential tails."""
    responses = PROMPTS * GROUP
    cuts = np.sort(rng.choice(np.arange(1, n), responses - 1, replace=False))
    length = np.diff(np.r_[0, cuts, n])
    sample = np.repeat(np.arange(responses), length)
    mu = -rng.exponential(0.7, n).astype(np.float32)
    old = mu + rng.laplace(0, 0.1, n).astype(np.float32)
    train = old + rng.laplace(0, 0.1, n).astype(np.float32)
    start = np.r_[0, cuts]
    tokens = {
        "update": sample // 32, "sample": sample, "prompt": sample // GROUP,
        "position": np.arange(n) - np.repeat(start, length), "turn": np.zeros(n, np.int16),
        "token": rng.integers(0, 50_000, n), "logp_rollout": mu, "logp_old": old, "logp_train": train,
        "entropy": rng.exponential(0.3, n).astype(np.float32), "keep": np.ones(n, bool),
        "advantage": rng.normal(size=responses).astype(np.float32)[sample],
        "reward": rng.integers(0, 2, responses).astype(np.float32)[sample],
        "policy_version": np.zeros(n, np.int32),
    }  # fmt: skip
    if noisy:
        tokens["logp_perturbed"] = train + rng.normal(0, 0.05, n).astype(np.float32)
    ids = [[1, 2]] * responses
    each = np.arange(responses)
    sequences = {"sample": each, "prompt": each // GROUP, "prompt_ids": ids, "response_ids": ids}
    return tokens, sequences | {"finish": ["stop"] * responses}


def measure(root: Path, name: str) -> Cost:
    """Analyse in a fresh process: its clock and its largest resident set."""
    code = f"from alpkit import analysis; analysis.analyze({name!r}, root={str(root)!r})"
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-c", code])
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"the analysis of {name} failed")
    seconds = time.perf_counter() - start
    return Cost(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024 / 1e9)


def machine() -> str:
    """Describe the machine as far as numbers depend on it, without its name."""
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text().splitlines() if cpu.exists() else []
    model = next((x.split(":")[1].strip() for x in lines if "model name" in x), platform.machine())
    load = f"load {os.getloadavg()[1]:.1f}"
    return f"{model}, {os.cpu_count()} cores, {load}, Python {platform.python_version()}"


def page(results: list[tuple[Size, Cost]]) -> str:
    """Text of docs/benchmarks-analysis.md."""
    table = "\n".join(
        f"| {size.name} | {size.arms * size.seeds} ({size.arms} × {size.seeds}) | {size.steps:,} "
        f"| {len(size.recorded)} | {size.total / 1e6:,.1f} "
        f"| {cost.seconds:.0f} | {cost.cpu:.0f} | {cost.gigabytes:.1f} |"
        for size, cost in results
    )
    return f"""# Cost of the analysis

`python benchmarks/analysis.py` writes this page: `analysis.analyze` (report, tables, figures) in a process
of its own on synthetic grids, about 200 metric keys a step; recorded: steps with token records in a cell; {machine()}.

| grid | cells (arms × seeds) | steps | recorded | tokens, millions | seconds | CPU seconds | peak GB |
| --- | --- | --- | --- | --- | --- | --- | --- |
{table}

Targets: 30 s and 2 GB for the quickstart, 300 s and 4 GB for the large grid. One process, one thread: on a
machine whose load is above its cores, seconds are more than CPU seconds by that much. Records are streamed, one
recorded step of an arm at a time, so memory grows with the cells' step metrics and not with their tokens.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=float, default=1e8, help="tokens of the large grid")
    wanted = parser.parse_args().tokens
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    large = Size("large", 12, 5, 2000, 20, 1)
    each = max(int(wanted / large.total), 2 * PROMPTS * GROUP)
    sizes = [Size("quickstart-sized", 6, 3, 60, 10, 2400), large._replace(tokens=each)]
    results = []
    with tempfile.TemporaryDirectory() as temporary:
        for size in sizes:
            start = time.perf_counter()
            build(Path(temporary), size)
            print(
                f"{size.name}: {size.total:,} tokens written in {time.perf_counter() - start:.0f} s"
            )
            results.append((size, measure(Path(temporary), size.name)))
            print(f"{size.name}: {results[-1][1]}", flush=True)
    if wanted >= 1e8:
        (Path(__file__).parents[1] / "docs" / "benchmarks-analysis.md").write_text(page(results))


if __name__ == "__main__":
    main()
