"""One optimizer step beside TRL 1.16's, on one prepared ragged batch: time, tokens/s, peak memory.

    make oracle                       # once: TRL in .oracle
    python benchmarks/trainer.py      # SmolLM2-135M, 16 rows, prompts 16-64, responses 32-256

Both sides: PPO clip at token level, token mean over the batch, AdamW, gradients clipped at 1; ours at its
defaults, TRL's `GRPOTrainer._compute_loss` at each micro-batch of `--micro`, of which its best counts. Every
side runs in a process of its own, the sides in turn, so that a busy machine slows all of them; losses and
gradient norms are printed and must agree. Seconds are wall-clock, with CPU seconds beside them.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import torch
from measuring import table
from torch import Tensor

ROOT: Final = Path(__file__).parents[1]
MODEL: Final = "builtin:smollm2-135m"
Loss = Callable[[], Iterator[Tensor]]
"""Yields the parts of one step's loss, micro-batch by micro-batch; each is to be taken backward at once."""


def prepared(rows: int, vocab: int) -> dict[str, Any]:
    """Random tokens of ragged lengths, an advantage a row, and log-probs of an older policy's size."""
    draw = torch.Generator().manual_seed(0)
    prompts = torch.randint(16, 65, (rows,), generator=draw).tolist()
    responses = torch.randint(32, 257, (rows,), generator=draw).tolist()
    ids = [
        torch.randint(vocab, (n + m,), generator=draw).tolist()
        for n, m in zip(prompts, responses, strict=True)
    ]
    old = [(torch.randn(m, generator=draw) - 12).tolist() for m in responses]
    advantage = torch.randn(rows, generator=draw)
    return {"prompts": prompts, "ids": ids, "old": old, "advantage": advantage}


def ours(model: Any, data: dict[str, Any], aim: int) -> Loss:
    """The trainer's own cut, packed forward and loss; `aim` 0: at as many tokens a forward as it chooses."""
    from alpkit.config import ObjectiveConfig
    from alpkit.config.hardware import HardwareConfig
    from alpkit.objective import normalizer_sums, policy_loss, whole_batch
    from alpkit.policy.attention import Packing
    from alpkit.policy.logprobs import response_logprobs
    from alpkit.policy.memory import forward_tokens, keep_freed_memory
    from alpkit.rollout import Request, Response, collate
    from alpkit.trainer.batches import Batch, cut

    keep_freed_memory()  # as the trainer does when it starts
    split = list(zip(data["ids"], data["prompts"], data["old"], strict=True))
    rollout = collate(
        [Request(tuple(ids[:n]), 0) for ids, n, _ in split],
        [Response(tuple(ids[n:]), tuple(old), "length") for ids, n, old in split],
        prompt=range(len(split)),
        pad_id=0,
        policy_version=0,
    )
    batch = Batch(
        step=1,
        rollout=rollout,
        responses=(),
        valid=rollout.response,
        reward=torch.zeros(len(split)),
        advantage=data["advantage"],
    )
    objective = ObjectiveConfig(ratio={"denominator": "rollout"})
    hardware = HardwareConfig()
    aim = aim or forward_tokens(model, hardware, autocast=False) or 0
    (micros,) = cut(batch, updates=1, tokens=hardware.micro_batch_tokens, aim=aim)
    given = [vars(micro.inputs(micro.rollout.logp_rollout)) for micro in micros]
    sums = [normalizer_sums(**inputs, config=objective) for inputs in given]
    whole = whole_batch(sums, objective, fixed_length=256)

    def parts() -> Iterator[Tensor]:
        for micro in micros:
            part = micro.rollout
            logp = response_logprobs(
                model, part.tokens, part.attention, part.response, packing=Packing()
            ).logp
            yield policy_loss(**vars(micro.inputs(logp)), config=objective, normalizer=whole).loss

    return parts


def theirs(model: Any, data: dict[str, Any], micro: int) -> Loss:
    """TRL's loss on `micro` rows at a time, each batch cut to its own longest prompt and response."""
    from trl import GRPOTrainer
    from trl.trainer import add_fused_lm_head

    add_fused_lm_head(model, temperature=1.0, outputs=("log_probs", "entropy"))
    rows = len(data["ids"])
    items = torch.tensor(sum(len(old) for old in data["old"]))
    # What `_compute_loss` reads of a trainer. One accumulated step: dapo is the token mean over the batch.
    stand_in = SimpleNamespace(
        args=SimpleNamespace(delta=None, use_bias_correction_kl=False, steps_per_generation=1),
        loss_type="dapo",
        importance_sampling_level="token",
        epsilon_low=0.2,
        epsilon_high=0.2,
        beta=0.0,
        off_policy_mask_threshold=None,
        use_vllm=False,
        vllm_importance_sampling_correction=False,
        top_entropy_quantile=1.0,
        aux_loss_enabled=False,
        _entropy_bonus_enabled=False,
        current_gradient_accumulation_steps=1,
        max_completion_length=256,
        model=model,
        accelerator=SimpleNamespace(
            num_processes=1,
            is_main_process=False,
            gather=lambda x: x,
            reduce=lambda x, reduction: x,
            autocast=lambda: torch.autocast("cpu", enabled=False),
        ),
        _metrics=defaultdict(lambda: defaultdict(list)),
    )
    stand_in._get_per_token_logps_and_entropies = (
        GRPOTrainer._get_per_token_logps_and_entropies.__get__(stand_in)
    )

    def padded(chosen: range) -> dict[str, Tensor]:
        split = [(data["ids"][i], data["prompts"][i], data["old"][i]) for i in chosen]
        left = max(n for _, n, _ in split)
        right = max(len(old) for *_, old in split)
        made = {
            "prompt_ids": [[0] * (left - n) + ids[:n] for ids, n, _ in split],
            "prompt_mask": [[0] * (left - n) + [1] * n for _, n, _ in split],
            "completion_ids": [ids[n:] + [0] * (right - len(old)) for ids, n, old in split],
            "completion_mask": [[1] * len(old) + [0] * (right - len(old)) for *_, old in split],
            "old_per_token_logps": [old + [0.0] * (right - len(old)) for *_, old in split],
        }
        return {name: torch.tensor(values) for name, values in made.items()} | {
            "advantages": data["advantage"][chosen.start : chosen.stop],
            "num_items_in_batch": items,
        }

    def parts() -> Iterator[Tensor]:
        for start in range(0, rows, micro):
            inputs = padded(range(start, min(start + micro, rows)))
            yield GRPOTrainer._compute_loss(stand_in, model, inputs)

    return parts


def run_side(options: argparse.Namespace) -> dict[str, Any]:
    """Load, take `steps` optimizer steps after one that warms up, and say what they cost."""
    from alpkit.policy.loading import load_policy
    from alpkit.trainer.speed import matmul_limit

    torch.set_num_threads(options.threads)
    model = load_policy(MODEL).model
    weights = 4 * sum(p.numel() for p in model.parameters())
    # What any trainer of this model holds: imports and weights, and three times the weights for AdamW.
    floor = resident() + 3 * weights
    data = prepared(options.rows, model.config.vocab_size)
    alpkit = options.side == "alpkit"
    parts = (ours if alpkit else theirs)(model, data, options.size)
    if not alpkit:
        model.train()  # no dropout in this model; TRL trains so
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)
    limit = matmul_limit(torch.device("cpu"), torch.float32, options.threads)
    told: list[tuple[float, float]] = []
    wall, cpu = [], []
    for step in range(options.steps + 1):
        begin, used = time.perf_counter(), time.process_time()
        loss = 0.0
        for part in parts():
            part.backward()
            loss += part.item()
        norm = float(torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step:
            wall.append(time.perf_counter() - begin)
            cpu.append(time.process_time() - used)
        told.append((loss, norm))
    tokens = sum(len(ids) for ids in data["ids"])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    if options.profile:
        print(profiled(parts), file=sys.stderr)
    return {
        "floor_gib": floor / 2**30,
        "above_gib": (peak - floor) / 2**30,
        "share": useful(model, data) / min(wall) / limit,
        "limit": limit,
        "loss": told[0][0],
        "norm": told[0][1],
        "wall": min(wall),
        "cpu": min(cpu),
        "tokens": tokens,
        "peak_gib": peak / 2**30,
    }


def resident() -> int:
    """Bytes of this process that are in memory now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def useful(model: Any, data: dict[str, Any]) -> int:
    """Operations of one step that no trainer could leave out: nothing padded, nothing computed twice."""
    from alpkit.policy.shapes import shape_of
    from alpkit.trainer.speed import Work

    lengths = [len(ids) for ids in data["ids"]]
    pairs = sum(n * (n + 1) // 2 for n in lengths)
    work = Work(sum(lengths), pairs, sum(len(old) for old in data["old"]))
    shape = shape_of(model.config.to_dict())
    assert shape is not None
    return work.flops(shape)


def profiled(parts: Loss) -> str:
    """Seconds of one more step by operator, the largest ten, as shares of all."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        for part in parts():
            part.backward()
    averages = profiler.key_averages()
    total = sum(entry.self_cpu_time_total for entry in averages)
    largest = sorted(averages, key=lambda entry: -entry.self_cpu_time_total)[:10]
    return "\n".join(
        f"| {entry.key} | {entry.count} | {entry.self_cpu_time_total / total:.1%} |"
        for entry in largest
    )


def measure(
    options: argparse.Namespace, side: str, size: int, *, profile: bool = False
) -> dict[str, Any]:
    """One side in a process of its own; TRL's finds `.oracle` behind what is installed."""
    command = [sys.executable, __file__, "--side", side, "--size", str(size)]
    for name in ("rows", "steps", "threads"):
        command += [f"--{name}", str(getattr(options, name))]
    command += ["--oracle", str(options.oracle), *(["--profile"] if profile else [])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{side} failed:\n{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    found["profile"] = [line for line in done.stderr.splitlines() if line.startswith("| ")]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument(
        "--steps", type=int, default=2, help="timed steps a process; the best counts"
    )
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--aim", type=int, default=0, help="tokens of our forwards; 0: our default")
    parser.add_argument(
        "--micro", type=int, nargs="+", default=[2, 4, 16], help="TRL's rows at once"
    )
    parser.add_argument("--oracle", type=Path, default=ROOT / ".oracle")
    parser.add_argument("--side", choices=["alpkit", "trl"], help=argparse.SUPPRESS)
    parser.add_argument("--size", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--profile", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        sys.path.append(str(options.oracle))
        print(json.dumps(run_side(options)))
        return
    sides = [("alpkit", options.aim), *(("trl", micro) for micro in options.micro)]
    found: dict[tuple[str, int], list[dict[str, Any]]] = defaultdict(list)
    for _ in range(options.pairs):
        for side in sides:
            found[side].append(measure(options, *side))
    first = found[sides[0]][0]
    numbers = ("wall", "cpu", "peak_gib", "above_gib", "share")
    medians = {
        side: {name: statistics.median(run[name] for run in runs) for name in numbers}
        for side, runs in found.items()
    }
    rows = [
        [
            *(f"{side} {size or 'default'}", f"{runs[0]['loss']:.7f}", f"{runs[0]['norm']:.5f}"),
            *(medians[side, size]["wall"], medians[side, size]["cpu"]),
            f"{runs[0]['tokens'] / medians[side, size]['wall']:.0f}",
            *(medians[side, size]["peak_gib"], medians[side, size]["above_gib"]),
            medians[side, size]["share"],
        ]
        for (side, size), runs in found.items()
    ]
    columns = "side, loss, gradient norm, s a step, CPU s, tokens/s, peak GiB, above the floor, FLOP share"
    print(table(columns.split(", "), rows))
    for (side, size), runs in found.items():
        for name in ("loss", "norm"):
            if abs(runs[0][name] / first[name] - 1) > 1e-5:
                sys.exit(f"{side} {size}: {name} {runs[0][name]} is not {first[name]} within 1e-5")
    conclude(medians, first)
    print("\n| our operators, one step | calls | share of CPU time |\n|---|---|---|")
    print("\n".join(measure(options, *sides[0], profile=True)["profile"]))


def conclude(medians: dict[tuple[str, int], dict[str, float]], first: dict[str, Any]) -> None:
    """Compare with TRL's fastest micro-batch: its time and its memory, not the best of each."""
    our = next(iter(medians.values()))
    best = min(
        (side for side in medians if side[0] == "trl"), key=lambda side: medians[side]["wall"]
    )
    their = medians[best]
    print(
        f"\nTRL is fastest at a micro-batch of {best[1]}. Beside it: **{their['wall'] / our['wall']:.2f}** times its "
        f"tokens a second (asked >= 1.5), **{our['above_gib'] / their['above_gib']:.2f}** of its memory above the "
        f"floor of {first['floor_gib']:.2f} GiB (asked <= 0.5; floor: imports, weights, gradients, AdamW's "
        f"moments). Useful operations are **{our['share']:.2f}** of the {first['limit'] / 1e9:.0f} GFLOP/s that "
        "the same threads multiply (asked >= 0.7)."
    )


if __name__ == "__main__":
    main()
