"""vLLM behind our sampler beside vLLM alone, and a push of weights beside copying them.

    python benchmarks/sampler.py [--small]

One engine for both: ours asks for seeds, stop tokens and log-probs request by request, bare `LLM.generate` for
log-probs alone. Without end tokens, so that both make as many tokens. A copy is `copy_` into tensors of
the engine's dtype that exist.
"""

import argparse
import sys

import torch
from measuring import alternate, seconds, table

from alpkit.config.hardware import HardwareConfig
from alpkit.config.run import VllmRolloutConfig
from alpkit.policy.loading import load_policy
from alpkit.rollout import Request
from alpkit.rollout.vllm import VllmSampler


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--small", action="store_true", help="the tiny model, few tokens")
    options = parser.parse_args()
    name = "builtin:tiny-addition" if options.small else "builtin:smollm2-135m"
    rows, tokens, pairs = (
        (4, 8, 1) if options.small else (options.rows, options.tokens, options.pairs)
    )
    policy = load_policy(name)
    config = VllmRolloutConfig(engine="vllm", dtype="bfloat16", max_model_len=512)
    sampler = VllmSampler(
        policy.source, config, hardware=HardwareConfig(sampler_kv_gib=0.5), seed=0, stop_ids=()
    )
    from vllm import SamplingParams

    vocab = policy.model.config.vocab_size
    prompts = torch.randint(
        2, vocab, (rows, 32), generator=torch.Generator().manual_seed(0)
    ).tolist()
    requests = [Request(tuple(ids), row) for row, ids in enumerate(prompts)]
    plain = SamplingParams(temperature=1.0, max_tokens=tokens, ignore_eos=True, logprobs=0, seed=0)
    asked = [{"prompt_token_ids": ids} for ids in prompts]

    def ours() -> None:
        sampler.generate(requests, max_tokens=tokens, temperature=1.0)

    def bare() -> None:
        sampler._llm.generate(asked, plain, use_tqdm=False)

    took = alternate({"alpkit": ours, "bare": bare}, pairs)
    weights = dict(policy.model.named_parameters())
    room = {n: torch.empty_like(w, dtype=torch.bfloat16) for n, w in weights.items()}

    def push() -> None:
        sampler.sync(weights.items())

    def copy() -> None:
        with torch.no_grad():
            for n, weight in weights.items():
                room[n].copy_(weight)

    moved = alternate({"push": push, "copy": copy}, pairs)
    made = rows * tokens
    print(
        table(
            ["what", "seconds", "tokens/s"],
            [
                ["our sampler", took["alpkit"], f"{made / took['alpkit']:,.0f}"],
                ["bare LLM.generate", took["bare"], f"{made / took['bare']:,.0f}"],
                ["push", moved["push"], ""],
                ["copying the weights", moved["copy"], ""],
                [
                    "starting another scoring of 4 rows",
                    seconds(lambda: _score(sampler, prompts)),
                    "",
                ],
            ],
        )
    )
    print(
        f"\n{name}, {rows} requests of {tokens} tokens: **{took['alpkit'] / took['bare']:.3f}** of bare vLLM's time "
        f"(asked <= 1.05); a push takes **{moved['push'] / moved['copy']:.1f}** times a copy (asked <= 2)."
    )
    sampler.close()
    sys.stdout.flush()


def _score(sampler: VllmSampler, prompts: list[list[int]]) -> None:
    sampler.score([(tuple(ids[:16]), tuple(ids[16:])) for ids in prompts[:4]])


if __name__ == "__main__":
    main()
