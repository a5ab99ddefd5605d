"""Measure what diagnostics cost: the sketch's speed, the records' size and speed, and the share of a step.

    python benchmarks/diagnostics.py [--dry] [--items 100000000] [--steps 3]

Seconds are CPU seconds of one thread for sketch and records (a shared machine's wall clock says
nothing), wall seconds for the training step, as a share of that same step. Each part runs in a process
of its own, so that peak memory is its own. Writes docs/benchmarks-diagnostics.md.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks-diagnostics.md"
PARTS = ("sketch", "device", "records", "step")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=100_000_000)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--dry", action="store_true", help="print only, write no page")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        print(json.dumps(globals()[f"measure_{options.part}"](options)))
        return
    found = {part: in_a_process(part) for part in PARTS}
    page = render(found, options)
    print(page)
    if not options.dry:
        PAGE.write_text(page)


def in_a_process(part: str) -> dict[str, float]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, *sys.argv[1:], "--part", part]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment)
    if done.returncode:
        raise SystemExit(f"{part} failed")
    return json.loads(done.stdout.splitlines()[-1])


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure_sketch(options: argparse.Namespace) -> dict[str, float]:
    """Stream log ratios in chunks of a million, made beforehand; only the sketch is timed."""
    import numpy as np

    from alpkit.diagnostics import RatioSketch

    rng = np.random.default_rng(0)
    before, chunk = peak_mib(), 1_000_000
    sketch, seconds = RatioSketch(), 0.0
    for start in range(0, options.items, chunk):
        values = rng.standard_t(3, min(chunk, options.items - start)) * 0.05
        begin = time.process_time()
        sketch.add(values)
        seconds += time.process_time() - begin
    assert sketch.n == options.items
    return {"seconds": seconds, "peak": peak_mib(), "before": before}


def measure_device(options: argparse.Namespace) -> dict[str, float]:
    """`sketch_state` of one micro-batch of 4,096 tokens, and of a step of a million."""
    import torch

    from alpkit.objective import sketch_state

    torch.set_num_threads(1)
    found = {}
    for name, items, times in (("micro", 4096, 50), ("step", 1_000_000, 3)):
        values = torch.randn(items) * 0.05
        sketch_state(values)
        begin = time.process_time()
        for _ in range(times):
            sketch_state(values)
        found[name] = (time.process_time() - begin) / times
    return found


def measure_records(options: argparse.Namespace) -> dict[str, float]:
    """Four log-probs of a million tokens, 4,096 responses of 256; the second write counts."""
    import numpy as np

    from alpkit.runs.records import RecordWriter

    rng = np.random.default_rng(0)
    rows, length = 4096, 256
    n, sample = rows * length, np.repeat(np.arange(rows), length)
    rollout = -rng.exponential(1.0, n)
    tokens = {
        "update": sample // 256,
        "sample": sample,
        "prompt": sample // 8,
        "position": np.tile(np.arange(length), rows),
        "turn": np.zeros(n, int),
        "token": rng.zipf(1.3, n) % 49_152,
        "logp_rollout": rollout,
        "logp_old": rollout + rng.normal(0, 0.01, n),
        "logp_train": rollout + rng.normal(0, 0.02, n),
        "logp_perturbed": rollout + rng.normal(0, 0.03, n),
        "entropy": rng.exponential(1.0, n),
        "keep": rng.random(n) > 0.01,
        "advantage": np.repeat(rng.normal(size=rows), length),
        "reward": np.repeat(rng.integers(0, 2, rows), length).astype(float),
        "policy_version": np.full(n, 3),
    }
    tokens = {k: v.astype(np.float32) if v.dtype == float else v for k, v in tokens.items()}
    ids = tokens["token"].reshape(rows, length)
    sequences = {
        "sample": np.arange(rows),
        "prompt": np.arange(rows) // 8,
        "prompt_ids": [[1, 2, 3]] * rows,
        "response_ids": list(ids),
        "reward": tokens["reward"][::length],
        "advantage": tokens["advantage"][::length],
        "finish": ["stop"] * rows,
    }
    with tempfile.TemporaryDirectory() as folder:
        writer = RecordWriter(Path(folder))
        writer.write(1, tokens, sequences)
        cpu, wall = time.process_time(), time.perf_counter()
        writer.write(2, tokens, sequences)
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        sizes = {
            k: next(Path(folder).glob(f"{k}-000002*")).stat().st_size
            for k in ("tokens", "sequences")
        }
    return {
        "bytes": sizes["tokens"] / n,
        "with_sequences": sum(sizes.values()) / n,
        "per_cpu_second": n / cpu,
        "per_second": n / wall,
    }


def measure_step(options: argparse.Namespace) -> dict[str, float]:
    """Whole steps of the trainer on SmolLM2-135M, a perturbed arm with every factor of the ratio."""
    from alpkit.config import PRESETS, RunConfig
    from alpkit.runs.steps import CellTracker, read_steps
    from alpkit.trainer import train_cell

    config = {
        **PRESETS["seq-alp"].settings,
        "model": "builtin:smollm2-135m",
        "rollout": {"prompts": 8, "group": 4, "max_tokens": 64},
        "train": {
            "steps": options.steps,
            "updates_per_rollout": 2,
            "lr": 1e-6,
        },
        "hardware": {"micro_batch_tokens": 2048},
        "eval": {"every": 100, "items": 2, "k": 1},
        "records": {"every": 100},
        "checkpoint": {"every": 100},
    }
    with tempfile.TemporaryDirectory() as folder:
        train_cell(RunConfig.model_validate(config), Path(folder), CellTracker(Path(folder)))
        steps = [values for step, values in read_steps(Path(folder)) if step > 0]
    parts = (
        "rollout",
        "logp_old",
        "update",
        "clean_forward",
        "diagnostics",
        "sync",
        "eval",
        "records",
    )
    total = {part: sum(values.get(f"time/{part}") or 0.0 for values in steps) for part in parts}
    # Evaluation and checkpoints are the grid's choice: a step without them is the stricter measure.
    seconds = sum(values["time/step"] for values in steps) - total.pop("eval")
    shares = {
        (values["time/diagnostics"]) / (values["time/step"] - (values.get("time/eval") or 0.0))
        for values in steps
    }
    tokens = steps[-1]["progress/tokens"] / len(steps)
    return {"step": seconds / len(steps), "worst": max(shares), "tokens": tokens} | {
        f"{part}_share": own / seconds for part, own in total.items()
    }


def render(found: dict[str, dict[str, float]], options: argparse.Namespace) -> str:
    sketch, device, records, step = (found[part] for part in PARTS)
    rows = [
        (
            f"sketch of {options.items:,} log ratios (numpy)",
            f"{sketch['seconds']:.1f} CPU s",
            "< 10 s",
        ),
        ("its process's peak memory", f"{sketch['peak']:.0f} MiB", "< 200 MiB"),
        ("`sketch_state` of 4,096 log ratios (torch)", f"{1e3 * device['micro']:.2f} ms", ""),
        ("`sketch_state` of 1,000,000", f"{1e3 * device['step']:.0f} ms", ""),
        ("records with four log-probs", f"{records['bytes']:.1f} bytes a token", "<= 24"),
        ("the same with sequences.parquet", f"{records['with_sequences']:.1f} bytes a token", ""),
        ("written", f"{records['per_cpu_second'] / 1e6:.1f} M tokens a CPU second", ">= 3 M"),
        ("", f"{records['per_second'] / 1e6:.1f} M tokens a second", ""),
        ("diagnostics' share of a step", f"{step['diagnostics_share']:.2%}", "<= 1 %"),
        ("of the worst step", f"{step['worst']:.2%}", ""),
        ("the extra unperturbed forward's share", f"{step['clean_forward_share']:.1%}", "apart"),
    ]
    table = "\n".join(f"| {what} | {value} | {target} |" for what, value, target in rows)
    others = ", ".join(
        f"{part} {step[f'{part}_share']:.1%}"
        for part in ("rollout", "logp_old", "update", "sync", "records")
    )
    return f"""# What looking costs

Generated by `python benchmarks/diagnostics.py` on {datetime.now(UTC):%Y-%m-%d}; {platform.machine()},
{os.cpu_count()} cores, Python {platform.python_version()}, one thread, no GPU.

| what | measured | asked |
|---|---|---|
{table}

The step: SmolLM2-135M, `seq-alp` with {options.steps} steps of 8 prompts x 4 responses in 2 updates,
{step["tokens"]:,.0f} response tokens and {step["step"]:.1f} s a step; the rest of it: {others}.
"""


if __name__ == "__main__":
    main()
