"""A grid of several turns with planted truths: later turns are wider, one arm's tail is heavy from turn 2 on."""

import json
from pathlib import Path

import numpy as np
import yaml

from alpkit.runs.records import RecordWriter
from tests.support.synthetic_grid import GROUP, PROMPTS, token_rows, write_grid

TURNS = 3
ARMS = ("grpo", "seq-bypass")


def write_turn_grid(
    root: Path, *, name="talks", arms=ARMS, seeds=(0, 1, 2), steps=40, sandbox="strict"
) -> Path:
    """The synthetic grid, its metrics, configs and records as an environment of three turns leaves them."""
    folder = write_grid(root, name=name, arms=arms, seeds=seeds, steps=steps)
    for cell in json.loads((folder / "grid.json").read_text())["cells"]:
        place = folder / cell["cell_id"]
        config = yaml.safe_load((place / "config.yaml").read_text())
        config["environment"] = {"name": "tool_math", "turns": TURNS, "sandbox": sandbox}
        config["task"] = {"name": "math"}
        (place / "config.yaml").write_text(yaml.safe_dump(config))
        lines = [json.loads(line) for line in (place / "metrics.jsonl").read_text().splitlines()]
        with (place / "metrics.jsonl").open("w") as file:
            for line in lines:
                if line["step"]:
                    line |= turn_metrics(cell["arm"], cell["seed"], line["step"], steps)
                file.write(json.dumps(line) + "\n")
        for path in sorted((place / "records").glob("tokens-*.parquet")):
            write_turns(place / "records", cell["arm"], cell["seed"], int(path.stem.split("-")[1]))
    return folder


def turn_metrics(arm, seed, step, steps):
    rng = np.random.default_rng([seed, step, ARMS.index(arm), 7])
    share = step / steps
    return {
        "turns/mean": 1.2 + 0.8 * share + 0.02 * rng.standard_normal(),
        "turns/max": 3.0,
        "turns/void": 0.2 * (1 - share),
        "turns/answered": 0.5 + 0.4 * share,
        "turns/inserted": 20.0,
        "turns/reward": 0.0,
        "tool/calls": 0.3 + 0.6 * share,
        "tool/failed": 0.25 * (1 - share) + 0.05,
        "tool/stopped": 0.0,
    }


def write_turns(records: Path, arm: str, seed: int, step: int) -> None:
    """Three turns a response, of which the last is there for every second one; log ratios grow with the turn."""
    parts = []
    for turn in range(TURNS):
        part = token_rows(arm, seed, 1000 * turn + step).assign(
            turn=np.int16(turn), step=np.int32(step)
        )
        part["logp_train"] = part["logp_rollout"] + np.float32(1 + turn) * (
            part["logp_train"] - part["logp_rollout"]
        )
        parts.append(part if turn < TURNS - 1 else part[part["sample"] % 2 == 0])
    import pandas as pd

    tokens = pd.concat(parts).sort_values(["sample", "turn"], kind="stable", ignore_index=True)
    tokens["position"] = tokens.groupby("sample").cumcount().astype(np.int16)
    n = PROMPTS * GROUP
    first = tokens.groupby("sample", as_index=False)[["prompt", "reward", "advantage"]].first()
    sequences = {c: first[c].to_numpy() for c in first}
    sequences |= {"prompt_ids": [[1, 2]] * n, "response_ids": [[1, 2]] * n, "finish": ["stop"] * n}
    RecordWriter(records).write(step, {c: tokens[c].to_numpy() for c in tokens}, sequences)
