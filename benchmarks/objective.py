"""Cost of `policy_loss` beside ten lines of plain PPO: loss + backward on 64 x 4096 tokens, one process.

Pairs of runs alternate, so that a busy machine slows both; the table gives medians and the median of
the pairs' quotients. `python benchmarks/objective.py > docs/benchmarks-objective.md`
"""

import platform
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from alpkit.config import PRESETS, ObjectiveConfig
from alpkit.objective import policy_loss

ROWS, TOKENS, PAIRS = 64, 4096, 41
METHODS = ("grpo", "gspo", "seq-bypass", "token-tis", "seq-mis", "cispo", "geo-rs", "opsm")


def plain_ppo(logp: Tensor, old: Tensor, mask: Tensor, advantage: Tensor) -> Tensor:
    """The loss that everybody writes: token-level clip, token mean, nothing measured."""
    ratio = torch.exp(logp - old)
    advantage = advantage[:, None]
    unclipped = -advantage * ratio
    clipped = -advantage * torch.clamp(ratio, 0.8, 1.2)
    loss = torch.maximum(unclipped, clipped)
    return (loss * mask).sum() / mask.sum()


def seconds(step: Callable[[], Tensor], logp: Tensor) -> float:
    logp.grad = None
    start = time.perf_counter()
    step().backward()
    return time.perf_counter() - start


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    old = -torch.rand(ROWS, TOKENS) * 3
    rollout = old + 0.05 * torch.randn(ROWS, TOKENS)
    logp = (old + 0.1 * torch.randn(ROWS, TOKENS)).requires_grad_(True)
    length = torch.randint(TOKENS // 4, TOKENS + 1, (ROWS, 1))
    mask = torch.arange(TOKENS) < length
    advantage = torch.randn(ROWS)
    weights = mask.float()
    print("# Cost of the objective\n")
    print(
        f"`python benchmarks/objective.py`: loss + backward on {ROWS} x {TOKENS} tokens, float32, one thread, "
        f"medians of {PAIRS} alternating pairs; torch {torch.__version__}, Python {platform.python_version()}, "
        f"{platform.machine()}.\nPlain: ten lines of PPO that measure nothing. "
        "Ours: `policy_loss` with its whole receipt.\n"
    )
    print(
        "| method | plain, ms | ours, ms | ours / plain, median of pairs |\n| --- | --- | --- | --- |"
    )
    for name in METHODS:
        config = ObjectiveConfig.model_validate(PRESETS[name].settings["objective"])

        def ours(config: ObjectiveConfig = config) -> Tensor:
            return policy_loss(
                logp=logp,
                logp_old=old,
                logp_rollout=rollout,
                mask=mask,
                advantage=advantage,
                config=config,
            ).loss

        pairs = [
            (seconds(lambda: plain_ppo(logp, old, weights, advantage), logp), seconds(ours, logp))
            for _ in range(PAIRS + 3)
        ][3:]
        plain, mine = (statistics.median(column) * 1e3 for column in zip(*pairs, strict=True))
        quotient = statistics.median(b / a for a, b in pairs)
        print(f"| {name} | {plain:.2f} | {mine:.2f} | {quotient:.2f} |")


if __name__ == "__main__":
    main()
