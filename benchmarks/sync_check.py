"""The start-up check of the weight sync: false alarms over seeds, and every single stale tensor.

    python benchmarks/sync_check.py hf 1000
    python benchmarks/sync_check.py vllm 150

Tiny random models, tied and untied, in every precision of the engine. `hf` shows its weights and gets a
new model and a new shake per seed; `vllm` is judged by its log-probs and gets a new shake per seed, on
one model. Prints one line per model and precision: seeds, false alarms, tensors below what the probe can
see (mean over seeds), and of the tensors left stale one by one how many were caught by their own name,
caught under another, named as below, and missed in silence.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from torch import Tensor
from transformers import PreTrainedModel

from alpkit.config.hardware import HardwareConfig
from alpkit.config.run import HfRolloutConfig, VllmRolloutConfig
from alpkit.errors import RolloutError
from alpkit.policy.autocast import FLOAT32
from alpkit.rollout import Sampler
from alpkit.rollout.hf import HfSampler, score
from alpkit.rollout.probe import SyncProbe, default_tolerance
from alpkit.rollout.sync_proof import prove_by_movement
from tests.support.tiny_models import tiny, tiny_qwen2

VLLM = (
    {"dtype": "float32"},
    {"dtype": "bfloat16"},
    {"dtype": "bfloat16", "head_dtype": "float32"},
    {"dtype": "float16"},
    {"dtype": "float32", "kv_cache_dtype": "fp8"},
    {"dtype": "bfloat16", "kv_cache_dtype": "fp8"},
    {"dtype": "bfloat16", "kv_cache_dtype": "fp8_e5m2"},
)
Check = Callable[[int], list[str]]


def sequences(vocab: int) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    rng = np.random.default_rng(0)
    ids = rng.integers(2, vocab, (8, 10)).tolist()
    return [(tuple(row[:4]), tuple(row[4:])) for row in ids]


def report(name: str, seeds: int, check: Check, stale: Iterable[tuple[str, Check]]) -> int:
    """Print one line; gives the number of false alarms and silent misses."""
    start, false, unseen = time.perf_counter(), 0, []
    for seed in range(seeds):
        try:
            unseen.append(len(check(seed)))
        except RolloutError as error:
            false += 1
            sys.stdout.write(f"false alarm, seed {seed}: {error}\n")
    seconds = (time.perf_counter() - start) / max(seeds, 1)
    counts = {"caught": 0, "caught otherwise": 0, "below": 0, "silent": 0}
    for tensor, judge in stale:
        try:
            counts["below" if tensor in judge(seeds) else "silent"] += 1
        except RolloutError as error:
            counts["caught" if tensor in str(error).splitlines()[0] else "caught otherwise"] += 1
    told = ", ".join(f"{key} {value}" for key, value in counts.items())
    below = np.mean(unseen) if unseen else float("nan")
    sys.stdout.write(
        f"{name}: {seeds} seeds, {false} false alarms, {below:.1f} below, {seconds:.2f} s each; "
        f"stale: {told}\n"
    )
    sys.stdout.flush()
    return false + counts["silent"]


def hf(seeds: int) -> int:
    faults = 0
    for tied in (False, True):
        for weights in ("float32", "bfloat16", "float16", "int8", "int4"):
            config = HfRolloutConfig(weights=weights)  # type: ignore[arg-type]

            def run(seed: int, stale: str | None = None, *, config=config, tied=tied) -> list[str]:  # type: ignore[no-untyped-def]
                model = tiny_qwen2(layers=2, tied=tied, seed=seed)
                sampler = HfSampler(model, config, stop_ids=(1,), pad_id=0)
                probe = SyncProbe(
                    sequences(20), pad_id=0, temperature=1.0, tolerance=default_tolerance(config)
                )
                if stale is not None:
                    forget(sampler, model, stale)
                probe.prove_sync(sampler, model, seed)
                return []

            names = [name for name, _ in tiny_qwen2(layers=2, tied=tied).named_parameters()]
            faults += report(
                f"hf {weights}, {'tied' if tied else 'untied'}",
                seeds,
                run,
                [(name, lambda seed, name=name, run=run: run(seed, name)) for name in names],  # type: ignore[misc]
            )
    return faults


def vllm(seeds: int) -> int:
    from alpkit.rollout.vllm import VllmSampler

    faults = 0
    for tied in (False, True):
        with tempfile.TemporaryDirectory() as folder:
            model = save_vllm_model(Path(folder), tied=tied)
            for settings in VLLM:
                config = VllmRolloutConfig(engine="vllm", **settings)  # type: ignore[arg-type]
                hardware = HardwareConfig(sampler_kv_gib=0.1)
                sampler = VllmSampler(folder, config, stop_ids=(1,), seed=0, hardware=hardware)

                def check(seed: int, *, sampler: Sampler = sampler, model=model) -> list[str]:  # type: ignore[no-untyped-def]
                    return movement(sampler, model, seed)

                def missing(name: str, sampler: Sampler = sampler, model=model) -> Check:  # type: ignore[no-untyped-def]
                    def judge(seed: int) -> list[str]:
                        sync = sampler.sync
                        forget(sampler, model, name)
                        try:
                            return movement(sampler, model, seed)
                        finally:
                            sampler.sync = sync  # type: ignore[method-assign]

                    return judge

                names = [name for name, _ in model.named_parameters()]
                label = " ".join(settings.values())
                faults += report(
                    f"vllm {label}, {'tied' if tied else 'untied'}",
                    seeds,
                    check,
                    [(name, missing(name)) for name in names],
                )
                sampler.close()
    return faults


def movement(sampler: Sampler, model: PreTrainedModel, seed: int) -> list[str]:
    probe = sequences(model.config.vocab_size)

    def flat(rows: list[list[float]]) -> np.ndarray:
        return np.concatenate([np.asarray(row) for row in rows])

    return prove_by_movement(
        sampler,
        model,
        lambda: flat(score(model, probe, pad_id=0, temperature=1.0, precision=FLOAT32)),
        lambda: flat(sampler.score(probe)),
        seed,
    )


def forget(sampler: Sampler, model: PreTrainedModel, stale: str) -> None:
    """Let every push leave one tensor at what it is now."""
    now = dict(model.named_parameters())[stale].detach().clone()
    push = sampler.sync

    def sync(parameters: Iterable[tuple[str, Tensor]]) -> None:
        push((name, now if name == stale else value) for name, value in parameters)

    sampler.sync = sync  # type: ignore[method-assign]


def save_vllm_model(folder: Path, *, tied: bool) -> PreTrainedModel:
    """A model that vLLM's CPU kernels take: heads of size 32."""
    model = tiny(
        "qwen2",
        seed=3,
        **{"vocab_size": 40, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2},
        **{"head_dim": 32, "initializer_range": 0.2, "max_position_embeddings": 256},
        tie_word_embeddings=tied,
    )
    model.save_pretrained(folder)
    return model


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("engine", choices=("hf", "vllm"))
    parser.add_argument("seeds", type=int)
    arguments = parser.parse_args()
    sys.exit(bool({"hf": hf, "vllm": vllm}[arguments.engine](arguments.seeds)))
