"""A whole step: sampling and one optimizer step, ours beside TRL's parts, both with transformers' generation.

    make oracle && python benchmarks/step.py [--prompts 8] [--group 2] [--tokens 128] [--pairs 3] [--no-vllm]

One model (SmolLM2-135M), one set of prompts. Ours: the `hf` sampler and the trainer's packed update at its
defaults. TRL's: `model.generate` as GRPOTrainer calls it (left-padded prompts, sampling, a cache) and its loss on the
same rows at `--micro`. Beside them ours with vLLM. Every side runs in a process of its own, in turn;
responses have one length, so that all sides train on as many tokens.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any, Final

import torch
from measuring import table
from trainer import MODEL, ROOT, ours, theirs

SIDES: Final = ("alpkit hf", "trl hf", "alpkit vllm")


def prompts_of(options: argparse.Namespace, vocab: int) -> list[tuple[int, ...]]:
    """Random prompts of 16 to 64 tokens, each as often as a group is large."""
    draw = torch.Generator().manual_seed(0)
    made = []
    for _ in range(options.prompts):
        length = int(torch.randint(16, 65, (), generator=draw))
        made += [tuple(torch.randint(3, vocab, (length,), generator=draw).tolist())] * options.group
    return made


def sampled_by_trl(
    model: Any, prompts: list[tuple[int, ...]], tokens: int
) -> list[tuple[int, ...]]:
    """Sample as GRPOTrainer does without vLLM."""
    width = max(map(len, prompts))
    ids = torch.tensor([(0,) * (width - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    with torch.no_grad():
        out = model.generate(
            input_ids=ids,
            attention_mask=mask,
            do_sample=True,
            temperature=1.0,
            max_new_tokens=tokens,
            min_new_tokens=tokens,
            pad_token_id=0,
        )
    return [tuple(row[width:].tolist()) for row in out]


def sampler_of(side: str, policy: Any) -> Any:
    """Build our sampler; None for TRL's side."""
    from alpkit.config.hardware import HardwareConfig
    from alpkit.config.run import HfRolloutConfig, VllmRolloutConfig
    from alpkit.rollout.engines import build_sampler

    if side == "trl hf":
        return None
    config: Any = HfRolloutConfig()
    if side == "alpkit vllm":
        config = VllmRolloutConfig(engine="vllm", dtype="float32", max_model_len=512)
    return build_sampler(policy, config, seed=0, hardware=HardwareConfig(sampler_kv_gib=0.5))


def run_side(options: argparse.Namespace) -> dict[str, float]:
    """Take steps, and say what sampling, training and pushing the weights took in the best one."""
    from alpkit.policy.loading import load_policy
    from alpkit.policy.memory import keep_freed_memory
    from alpkit.rollout import Request

    torch.set_num_threads(options.threads)
    if options.side != "trl hf":
        keep_freed_memory()
    policy = load_policy(MODEL)
    model = policy.model
    prompts = prompts_of(options, model.config.vocab_size)
    sampler = sampler_of(options.side, policy)
    if sampler is not None:
        sampler.stop_ids = ()  # hf: sample to the last token
        sampler._stop_ids = []  # vllm
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)
    found = []
    for step in range(options.steps + 1):
        start = time.perf_counter()
        if sampler is None:
            responses = sampled_by_trl(model, prompts, options.tokens)
            old = [[-10.0] * options.tokens] * len(prompts)
        else:
            requests = [Request(prompt, 1000 * step + i) for i, prompt in enumerate(prompts)]
            drawn = sampler.generate(requests, max_tokens=options.tokens, temperature=1.0)
            responses = [response.token_ids for response in drawn]
            old = [list(response.logp) for response in drawn]
        sampled = time.perf_counter()
        data = {
            "prompts": [len(prompt) for prompt in prompts],
            "ids": [list(p + r) for p, r in zip(prompts, responses, strict=True)],
            "old": old,
            "advantage": torch.linspace(-1, 1, len(prompts)),
        }
        make = theirs(model, data, options.micro) if sampler is None else ours(model, data, 0)
        for part in make():
            part.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        trained = time.perf_counter()
        if sampler is not None:
            sampler.sync(model.named_parameters())
        end = time.perf_counter()
        if step:
            found.append((end - start, sampled - start, trained - sampled, end - trained))
    if sampler is not None:
        sampler.close()
    whole, sampling, training, pushing = min(found)
    return {"step": whole, "sampling": sampling, "training": training, "push": pushing}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--group", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument(
        "--steps", type=int, default=1, help="timed steps a process; the best counts"
    )
    parser.add_argument("--pairs", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--micro", type=int, default=4, help="TRL's rows at once")
    parser.add_argument("--no-vllm", action="store_true")
    parser.add_argument("--oracle", type=Path, default=ROOT / ".oracle")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        sys.path.append(str(options.oracle))
        print(json.dumps(run_side(options)))
        return
    sides = SIDES[:2] if options.no_vllm else SIDES
    found = defaultdict(list)
    for _ in range(options.pairs):
        for side in sides:
            command = [sys.executable, __file__, *sys.argv[1:], "--side", side]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                sys.exit(f"{side} failed:\n{done.stderr[-2000:]}")
            found[side].append(json.loads(done.stdout.splitlines()[-1]))
    parts = ("sampling", "training", "push", "step")
    rows = [
        [side, *(statistics.median(run[part] for run in runs) for part in parts)]
        for side, runs in found.items()
    ]
    print(table(["side", *(f"{part}, s" for part in parts)], rows))
    whole = {str(row[0]): float(row[-1]) for row in rows}
    ratio = whole["trl hf"] / whole["alpkit hf"]
    print(
        f"\n{options.prompts} prompts x {options.group}, {options.tokens} tokens each: with transformers' "
        f"generation on both sides we take **{ratio:.2f}** times as many steps a second (asked >= 1.2). "
        "TRL pushes no weights: it samples from the model that it trains."
    )


if __name__ == "__main__":
    main()
