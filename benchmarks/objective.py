"""Cost of `policy_loss` beside ten lines of plain PPO: loss + backward on 64 x 4096 tokens, one thread.

CPU time, in pairs that alternate, so that a busy machine hardly shows; the table gives medians and the median
of the pairs' quotients. `python benchmarks/objective.py` writes docs/benchmarks-objective.md.

malloc is told to keep what is freed, as CUDA's allocator does. By default glibc hands pages at the top of its
heap back to the kernel, which zeroes them again for the next step: a quarter of a millisecond per megabyte, paid
by whichever of the two ends higher up there. `--default-malloc` measures that.
"""

import argparse
import ctypes
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from alpkit.config import PRESETS, ObjectiveConfig
from alpkit.objective import TopTokens, policy_loss

ROWS, TOKENS, PAIRS, TARGET = 64, 4096, 41, 1.3
METHODS = (
    "grpo", "gspo", "cispo", "token-bypass", "seq-bypass", "token-tis", "seq-tis", "token-mis", "seq-mis",
    "icepop", "geo-rs", "k3-rs", "seq-mask-tis", "opsm", "veto", "dr-grpo",
    "dppo-tv", "dppo-kl", "kpop", "ipo", "sapo", "vespo", "reinforce-tis",
)  # fmt: skip
CANDIDATES, CENTRED = 8, ("score-centering", "score-centering-tis")


def plain_ppo(logp: Tensor, old: Tensor, mask: Tensor, advantage: Tensor) -> Tensor:
    """The loss that everybody writes: token-level clip, token mean, nothing measured."""
    ratio = torch.exp(logp - old)
    advantage = advantage[:, None]
    unclipped = -advantage * ratio
    clipped = -advantage * torch.clamp(ratio, 0.8, 1.2)
    loss = torch.maximum(unclipped, clipped)
    return (loss * mask).sum() / mask.sum()


def plain_centred(
    logp: Tensor, rollout: Tensor, top: TopTokens, mask: Tensor, advantage: Tensor, cap: float
) -> Tensor:
    """Score centering by its formula, through autograd, with nothing measured."""
    q, p = top.logp_rollout.exp(), top.logp.detach().exp()
    excess = (1 - q.sum(-1)).clamp(min=1e-6) / (1 - p.sum(-1)).clamp(min=1e-6)
    alpha = excess * (1 / excess).clamp(max=cap)
    coefficient = q * (p / q).clamp(max=cap) - alpha[..., None] * p
    weight = torch.exp(logp.detach() - rollout).clamp(max=cap)
    loss = -advantage[:, None] * (weight * logp - (coefficient * top.logp).sum(-1))
    return (loss * mask).sum() / mask.sum()


def seconds(step: Callable[[], Tensor], *leaves: Tensor) -> float:
    for leaf in leaves:
        leaf.grad = None
    start = time.process_time()
    step().backward()
    return time.process_time() - start


def keep_freed_memory() -> None:
    """Stop glibc from giving memory back to the kernel and from mapping every tensor anew."""
    trim_threshold, mmap_threshold = -1, -3
    libc = ctypes.CDLL(None)
    if not libc.mallopt(trim_threshold, 2**30) or not libc.mallopt(mmap_threshold, 2**25):
        raise SystemExit("this libc takes no mallopt: measure with --default-malloc")


def machine() -> str:
    """Describe the machine as far as numbers depend on it, without its name."""
    model = next(
        (line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if "model name" in line),
        platform.machine(),
    )
    busy = os.getloadavg()[0]
    return (
        f"{model}, {os.cpu_count()} cores, load {busy:.1f}; torch {torch.__version__}, "
        f"Python {platform.python_version()}"
    )


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []


def measure(names: tuple[str, ...]) -> list[tuple[str, float, float, float]]:
    """(method, plain in ms, ours in ms, median of the pairs' quotients)."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    old = -torch.rand(ROWS, TOKENS) * 3
    rollout = old + 0.05 * torch.randn(ROWS, TOKENS)
    logp = (old + 0.1 * torch.randn(ROWS, TOKENS)).requires_grad_(True)
    mask = torch.arange(TOKENS) < torch.randint(TOKENS // 4, TOKENS + 1, (ROWS, 1))
    advantage, weights = torch.randn(ROWS), mask.float()
    shared = {"logp_old": old, "logp_rollout": rollout, "mask": mask, "advantage": advantage}
    rows = []
    for name in names:
        config = ObjectiveConfig.model_validate(PRESETS[name].settings["objective"])

        def ours(config: ObjectiveConfig = config) -> Tensor:
            return policy_loss(logp=logp, config=config, **shared).loss

        def plain() -> Tensor:
            return plain_ppo(logp, old, weights, advantage)

        rows.append((name, *_compare(plain, ours, logp)))
    return rows


def measure_centred() -> list[tuple[str, float, float, float]]:
    """The same for score centering, whose plain form has the candidates as well."""
    torch.manual_seed(0)
    head = torch.randn(ROWS, TOKENS, CANDIDATES + 4).log_softmax(-1)[..., :CANDIDATES]
    leaf = (head + 0.05 * torch.randn_like(head)).clamp(max=-1e-3).requires_grad_(True)
    top = TopTokens(torch.zeros_like(head, dtype=torch.int32), head, leaf)
    rollout = head[..., 0].contiguous()
    logp = leaf.detach()[..., 0].clone().requires_grad_(True)
    mask = torch.arange(TOKENS) < torch.randint(TOKENS // 4, TOKENS + 1, (ROWS, 1))
    advantage, weights = torch.randn(ROWS), mask.float()
    rows = []
    for name in CENTRED:
        config = ObjectiveConfig.model_validate(PRESETS[name].settings["objective"])
        cap = config.weight.upper if config.weight.action == "truncate" else torch.inf

        def ours(config: ObjectiveConfig = config) -> Tensor:
            return policy_loss(
                logp=logp, logp_old=None, logp_rollout=rollout, mask=mask, advantage=advantage,
                config=config, top=top,
            ).loss  # fmt: skip

        def plain(cap: float = cap) -> Tensor:
            return plain_centred(logp, rollout, top, weights, advantage, cap)

        rows.append((name, *_compare(plain, ours, logp, leaf)))
    return rows


def _compare(
    plain: Callable[[], Tensor], ours: Callable[[], Tensor], *leaves: Tensor
) -> tuple[float, float, float]:
    pairs = [(seconds(plain, *leaves), seconds(ours, *leaves)) for _ in range(PAIRS + 3)][3:]
    theirs, mine = (statistics.median(column) * 1e3 for column in zip(*pairs, strict=True))
    return theirs, mine, statistics.median(b / a for a, b in pairs)


def with_default_malloc() -> float:
    """Measure the largest quotient in a process whose malloc gives memory back."""
    command = [sys.executable, __file__, "--default-malloc"]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(answer.stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--default-malloc", action="store_true", help="print only the largest quotient; no page"
    )
    if parser.parse_args().default_malloc:
        print(max(quotient for *_, quotient in measure(METHODS)))
        return
    keep_freed_memory()
    facts = machine()
    rows = measure(METHODS)
    centred = measure_centred()
    worst = max(quotient for *_, quotient in [*rows, *centred])
    lines = [
        "# Cost of the objective",
        "",
        f"`python benchmarks/objective.py` writes this page: loss + backward on {ROWS} x {TOKENS} tokens, float32, one",
        f"thread, CPU time, medians of {PAIRS} alternating pairs on {facts}.",
        "Plain: ten lines of PPO through autograd that measure nothing. Ours: `policy_loss` with its whole receipt and",
        "its hand-written slope. A quotient below 1 means that ours is faster.",
        "",
        "| method | plain, ms | ours, ms | ours / plain, median of pairs |",
        "| --- | --- | --- | --- |",
        *(f"| {name} | {plain:.2f} | {mine:.2f} | {q:.2f} |" for name, plain, mine, q in rows),
        "",
        f"Score centering with {CANDIDATES} candidates a position, beside its own formula through autograd:",
        "",
        "| method | plain, ms | ours, ms | ours / plain, median of pairs |",
        "| --- | --- | --- | --- |",
        *(f"| {name} | {plain:.2f} | {mine:.2f} | {q:.2f} |" for name, plain, mine, q in centred),
        "",
        f"The target is {TARGET} for every method; the largest quotient is {worst:.2f}.",
        "",
        "malloc keeps what is freed here, as CUDA's allocator does. By glibc's defaults pages at the top of the heap",
        "go back to the kernel and are zeroed anew in the next step, in whichever of the two happens to end higher up;",
        f"with that the largest quotient is {with_default_malloc():.2f}.",
    ]
    page = Path(__file__).parents[1] / "docs" / "benchmarks-objective.md"
    page.write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
