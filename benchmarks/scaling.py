"""How costs grow: an update with the length of sequences and their number, a plan with the number of cells.

    python benchmarks/scaling.py [--small]

An exponent of 1 is in proportion. Updates are forward, loss and backward of SmolLM2's first layers (random weights, a
tenth of the depth), as the trainer cuts and packs them; a plan is read, expanded and compared with what is on disk.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch
import yaml
from measuring import alternate, exponent, table
from trainer import ours
from transformers import AutoConfig, AutoModelForCausalLM

from alpkit.policy.folders import local_folder
from alpkit.policy.memory import keep_freed_memory


def a_model(small: bool) -> Any:
    """A shallow model of SmolLM2's width, with a vocabulary that does not hide the layers."""
    config = AutoConfig.from_pretrained(str(local_folder("builtin:smollm2-135m")))
    config.num_hidden_layers, config.vocab_size = 3, 4096
    if small:
        config.hidden_size, config.intermediate_size = 64, 128
        config.num_attention_heads, config.num_key_value_heads, config.head_dim = 2, 2, 32
    return AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()


def data(rows: int, length: int) -> dict[str, Any]:
    """Rows of one length, a quarter of it prompt."""
    prompt = length // 4
    ids = torch.randint(4096, (rows, length), generator=torch.Generator().manual_seed(0)).tolist()
    return {
        "prompts": [prompt] * rows,
        "ids": ids,
        "old": [[-8.0] * (length - prompt)] * rows,
        "advantage": torch.linspace(-1, 1, rows),
    }


def update_seconds(model: Any, rows: int, length: int, pairs: int) -> float:
    """Seconds of one update of so many rows."""
    parts = ours(model, data(rows, length), 0)

    def update() -> None:
        for part in parts():
            part.backward()
        model.zero_grad(set_to_none=True)

    return alternate({"update": update}, pairs)["update"]


def plan_seconds(cells: int, pairs: int) -> float:
    """Seconds to read, expand and look up a grid of so many cells."""
    from alpkit.config import expand, load_ablation
    from alpkit.launch import adopt, states

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "grid.yaml"
        path.write_text(
            yaml.safe_dump({"name": "g", "arms": ["grpo"], "seeds": list(range(cells))})
        )

        def plan() -> None:
            states(adopt(expand(load_ablation(path)), Path(folder)), Path(folder))

        return alternate({"plan": plan}, pairs)["plan"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=2)
    parser.add_argument("--small", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    model, few = a_model(options.small), options.small
    curves = {
        "an update of 4 sequences, tokens each": (
            [64, 128] if few else [1024, 2048, 4096],
            lambda n: update_seconds(model, 4, n, options.pairs),
        ),
        "an update of sequences of 64 tokens, their number": (
            [1, 4] if few else [1, 10, 100, 1000],
            lambda n: update_seconds(model, n, 64, options.pairs),
        ),
        "planning, cells": (
            [1, 4] if few else [1, 4, 16, 64],
            lambda n: plan_seconds(n, options.pairs),
        ),
    }
    rows = []
    for name, (sizes, measure) in curves.items():
        found = [measure(size) for size in sizes]
        shown = ", ".join(
            f"{size:,}: {took:.3g} s" for size, took in zip(sizes, found, strict=True)
        )
        rows.append([name, shown, f"{exponent(sizes, found):.2f}"])
    print(table(["what grows", "seconds", "exponent"], rows))


if __name__ == "__main__":
    main()
