"""Tiny real runs to replay: every step recorded, with the policy from before it."""

import json

import torch

from alpkit.config import PRESETS, RunConfig, dump_yaml
from alpkit.runs.steps import CellTracker
from alpkit.trainer import train_cell

SMALL = {
    "rollout": {"weights": "int4", "prompts": 8, "group": 4},
    "train": {"steps": 2, "updates_per_rollout": 4, "lr": 1e-4},
    # A mini-batch of two prompts is cut into several micro-batches.
    "hardware": {"micro_batch_tokens": 60},
    "eval": {"every": 9, "items": 4, "k": 1},
    "records": {"every": 1, "replay": True, "weight": True},
}


def merged(*layers):
    out = {}
    for layer in layers:
        for key, value in layer.items():
            both = isinstance(value, dict) and isinstance(out.get(key), dict)
            out[key] = merged(out[key], value) if both else value
    return out


def trained(folder, preset="grpo", **changes):
    """A finished cell in `folder`, as the launcher leaves it; gives the folder."""
    torch.set_num_threads(1)
    config = RunConfig.model_validate(merged(SMALL, PRESETS[preset].settings, changes))
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(dump_yaml(config))
    (folder / "cell.json").write_text(
        json.dumps({"cell_id": folder.name, "arm": preset, "seed": config.seed, "grid": "tiny"})
    )
    train_cell(config, folder, CellTracker(folder))
    return folder


def metrics_of(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {line.pop("step"): line for line in lines}
