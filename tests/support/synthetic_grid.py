"""Writes a grid's files as a run leaves them, with planted truths and no training.

Planted: `seq-bypass` has a heavy ratio tail (shape 0.9, the others 0.3) and, in seed 1, a spike at step
27; `seq-alp` ends 0.1 above its control in reward and greedy accuracy; `token-tis` equals its control
`grpo` but for noise; `seq-mis` masks nothing.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from alpkit.config import PRESETS, RunConfig
from alpkit.runs.records import RecordWriter

ARMS = ("grpo", "gspo", "token-tis", "seq-mis", "seq-bypass", "seq-alp")
CONTROLS = {"token-tis": "grpo", "seq-alp": "seq-bypass"}
HEAVY, LIGHT = 0.9, 0.3
SPIKE = ("seq-bypass", 1, 27)
EFFECT = 0.1
PROMPTS, GROUP, LENGTH = 24, 4, 5


def write_grid(
    root: Path,
    *,
    name="synthetic",
    arms=ARMS,
    seeds=(0, 1, 2),
    steps=40,
    controls=CONTROLS,
    records=True,
) -> Path:
    folder = root / "runs" / name
    cells = []
    for arm in arms:
        for seed in seeds:
            cell = f"{arms.index(arm):02d}{seed:02d}abcdef"
            write_cell(folder / cell, arm, seed, steps, records)
            cells.append(
                {
                    "cell_id": cell,
                    "arm": arm,
                    "seed": seed,
                    "axes": {},
                    "run_id": f"run-{cell}",
                    "state": "finished",
                }
            )
    manifest = {
        "grid": name,
        "grid_id": "0123456789abcdef",
        "question": "Does the planted arm differ?",
        "created": "2026-01-02T03:04:05+00:00",
        "tracking_uri": "sqlite:///mlflow.db",
        "experiment_id": "1",
        "parent_run_id": "parent",
        "controls": {a: c for a, c in controls.items() if a in arms and c in arms},
        "notes": ["seq-bypass is seq-alp's sigma = 0 twin"],
        "cells": cells,
    }
    (folder / "grid.json").write_text(json.dumps(manifest))
    return folder


def write_variants(
    root: Path, *, name: str, field: str, values: tuple[str, ...], **options
) -> Path:
    """A grid of `seq-bypass`, `seq-alp` and copies of it whose configs differ in one field of the noise."""
    folder = write_grid(root, name=name, arms=("seq-bypass", "seq-alp"), **options)
    manifest = json.loads((folder / "grid.json").read_text())
    for cell in [cell for cell in manifest["cells"] if cell["arm"] == "seq-alp"]:
        for number, value in enumerate(values, start=1):
            arm = f"seq-alp {field}={value}"
            twin = {**cell, "cell_id": f"{number}{cell['cell_id'][1:]}", "arm": arm}
            shutil.copytree(folder / cell["cell_id"], folder / twin["cell_id"])
            path = folder / twin["cell_id"] / "config.yaml"
            config = yaml.safe_load(path.read_text())
            config["perturbation"][field] = value
            path.write_text(yaml.safe_dump(config))
            manifest["cells"].append(twin)
            manifest["controls"][arm] = "seq-bypass"
    (folder / "grid.json").write_text(json.dumps(manifest))
    return folder


def write_cell(folder: Path, arm: str, seed: int, steps: int, records: bool) -> None:
    folder.mkdir(parents=True)
    config = RunConfig.model_validate(
        {
            **PRESETS[arm].settings,
            "seed": seed,
            "train": {"steps": steps},
            "rollout": {"prompts": 64},
        }
    )
    (folder / "config.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    state = {
        "cell_id": folder.name,
        "arm": arm,
        "seed": seed,
        "grid": folder.parent.name,
        "run_id": f"run-{folder.name}",
        "state": "finished",
        "steps_done": steps,
        "started": "2026-01-02T03:04:05+00:00",
        "ended": "2026-01-02T03:14:05+00:00",
        "error": None,
    }
    (folder / "cell.json").write_text(json.dumps(state))
    with (folder / "metrics.jsonl").open("w") as file:
        file.writelines(json.dumps(line) + "\n" for line in metric_lines(arm, seed, steps))
    if (arm, seed) == SPIKE[:2] and steps > SPIKE[2]:
        (folder / "spikes.jsonl").write_text(json.dumps(spike_line()) + "\n")
    if not records:
        return
    recorded = sorted({1, steps, *range(10, steps + 1, 10)})
    writer = RecordWriter(folder / "records")
    for step in recorded:
        tokens = token_rows(arm, seed, step)
        first = tokens.groupby("sample", as_index=False)[["prompt", "reward", "advantage"]].first()
        ids = [[1, 2]] * len(first)
        sequences = {
            **{c: first[c].to_numpy() for c in first},
            "prompt_ids": ids,
            "response_ids": ids,
        }
        sequences["finish"] = ["stop"] * len(first)
        writer.write(step, {c: tokens[c].to_numpy() for c in tokens}, sequences)


def spike_line():
    share = {"1": 0.62, "10": 0.8, "100": 0.97}
    token = {"sample": 3, "prompt": 1, "position": 2, "token": 11, "text": "7"}
    token |= {"log_ratio": 4.2, "contribution": 61.5, "share": 0.62}
    response = {"sample": 3, "prompt": 1, "contribution": 70.0, "share": 0.7}
    return {
        "step": SPIKE[2],
        "metric": "kl/k3",
        "value": 0.9,
        "z": 11.5,
        "share_tokens": share,
        "share_sequences": {"1": 0.7, "10": 0.9, "100": 1.0},
        "tokens": [token],
        "sequences": [{**response, "tokens": 5, "text": "1+2=7"}],
    }


def metric_lines(arm: str, seed: int, steps: int):
    # Seeds shift all arms alike, as shared prompts do; what is left is the arm's own noise.
    shared = np.random.default_rng([seed, 99])
    own = np.random.default_rng([seed, ARMS.index(arm)])
    offset = 0.02 * shared.standard_normal()
    gain = 0.3 + (EFFECT if arm == "seq-alp" else 0.0)
    spread = {"seq-bypass": 0.8}.get(arm, 0.3)
    yield {
        "step": 0,
        "eval/greedy": 0.5 + offset,
        "eval/avg_at_k": 0.4 + offset,
        "eval/pass_at_k": 0.6,
    }
    for step in range(1, steps + 1):
        level = 0.4 + offset + gain * step / steps
        k3 = spread**2 / 20 * np.exp(0.3 * own.standard_normal())
        spike = (arm, seed, step) == SPIKE
        k3 = 0.9 if spike else k3
        line = {
            "step": step,
            "reward/mean": level + 0.01 * own.standard_normal(),
            "train/grad_norm": float(np.exp(0.2 * own.standard_normal())) * (9 if spike else 1),
            "train/loss": 0.01 * own.standard_normal(),
            "kl/k1": k3 * 0.9,
            "kl/k3": k3,
            "kl/k3_max": 2 * k3,
            "kl/spike": None if step < 17 else float(spike),
            "kl/spike_z": None if step < 17 else 11.5 if spike else 0.3,
            "ratio/raw/token/p02": -spread,
            "ratio/raw/token/p98": spread,
            "ratio/raw/token/width": 2 * spread + 0.01 * own.standard_normal(),
            "ratio/raw/token/khat_right": 0.3 + spread / 2 + 0.02 * own.standard_normal(),
            "ratio/raw/token/ess": 0.9,
            "ratio/raw/product/p02": -2 * spread,
            "ratio/raw/product/p98": 2 * spread,
            "ratio/raw/product/ess": 0.7,
            "ratio/mismatch/token/std": spread / 2,
            "ratio/staleness/token/std": spread / 2,
            "receipt/clipped_low": 0.01,
            "receipt/clipped_high": 0.02,
            "receipt/truncated": 0.005 if arm == "token-tis" else 0.0,
            "receipt/masked": 0.0,
            "receipt/weight_removed": 0.004 if arm == "token-tis" else 0.0,
            "receipt/surviving": 0.6,
            "progress/tokens": 480.0 * step,
            "time/rollout": 0.5,
            "time/update": 1.3,
            "time/diagnostics": 0.2,
            "time/step": 2.0 if step % 10 else 5.0,
            "time/eval": None if step % 10 else 3.0,
        }
        if arm == "seq-alp":
            line["ratio/perturbation/token/std"] = 0.1
            # Noise that later layers unlearn faster.
            for layer in range(4):
                line[f"sigma/layer_{layer:02d}"] = 0.02 * np.exp(-layer * step / 100)
        if step % 10 == 0:
            for key, lead in (
                ("eval/greedy", 0.1),
                ("eval/avg_at_k", 0.0),
                ("eval/pass_at_k", 0.2),
            ):
                line[key] = level + lead + 0.005 * own.standard_normal()
        yield line


def token_rows(arm: str, seed: int, step: int) -> pd.DataFrame:
    rng = np.random.default_rng([seed, step, ARMS.index(arm)])
    n = PROMPTS * GROUP * LENGTH
    sample = np.repeat(np.arange(PROMPTS * GROUP), LENGTH)
    logp_rollout = -rng.exponential(0.7, n) * rng.integers(0, 2, n) - 1e-4
    shape = HEAVY if arm == "seq-bypass" else LIGHT
    # An exponential log ratio of mean xi is a Pareto ratio of tail shape xi.
    log_ratio = rng.laplace(0.0, shape, n)
    logp_train = logp_rollout + log_ratio
    frame = pd.DataFrame(
        {
            "step": np.int32(step),
            "update": (sample // 6).astype(np.int16),
            "sample": sample.astype(np.int32),
            "prompt": (sample // GROUP).astype(np.int32),
            "position": np.tile(np.arange(LENGTH), PROMPTS * GROUP).astype(np.int16),
            "turn": np.int16(0),
            "token": rng.integers(0, 12, n).astype(np.int32),
            "logp_rollout": logp_rollout,
            "logp_old": logp_rollout + 0.5 * log_ratio,
            "logp_train": logp_train,
            "logp_perturbed": logp_train + 0.1 * rng.standard_normal(n)
            if arm == "seq-alp"
            else np.nan,
            "entropy": rng.exponential(0.3, n),
            "keep": True,
            "advantage": rng.standard_normal(n),
            "reward": rng.integers(0, 2, n).astype(float),
            "policy_version": np.int32(step - 1),
        }
    )
    floats = frame.select_dtypes("float64").columns
    return frame.astype({name: np.float32 for name in floats})
