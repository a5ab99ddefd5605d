"""Measure what the perturbation costs: share of a training step's seconds, and added peak memory.

    python benchmarks/perturbation.py [--steps 5] [--threads 2] [--model builtin:smollm2-135m]

Seconds are measured inside the perturbation's own forward and backward, as a share of the seconds of
the step that they are part of: paired whole steps are too noisy to decide 3 %. Peak memory is that of
the tensor allocator, which repeats to the byte, in one process per form. The forms: no noise; ours;
`stored`, plain autograd on h + sigma z, which keeps z; `micro-checkpoint`, the same inside
torch.utils.checkpoint, as the paper's released code does it. Writes docs/benchmarks-perturbation.md.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path

FORMS = ("ours", "none", "stored", "micro-checkpoint")
PAGE = Path(__file__).parents[1] / "docs" / "benchmarks-perturbation.md"
SIGMA = 0.02


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--scale", default="absolute", choices=["absolute", "rms"])
    parser.add_argument("--model", default="builtin:smollm2-135m")
    parser.add_argument("--dry", action="store_true", help="print only, write no page")
    parser.add_argument("--form", choices=FORMS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.form:
        print(json.dumps(measure(options)))
        return
    found = {form: in_a_process(form) for form in FORMS}
    page = render(found, options)
    print(page)
    if not options.dry:
        PAGE.write_text(page)


def in_a_process(form: str) -> dict[str, float]:
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    done = subprocess.run(
        [sys.executable, __file__, *sys.argv[1:], "--form", form],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    if done.returncode:
        raise SystemExit(f"{form} failed")
    return json.loads(done.stdout.splitlines()[-1])


def measure(options: argparse.Namespace) -> dict[str, float]:
    """Seconds per step, seconds inside the noise, and peak bytes, of one form."""
    import torch

    from alpkit.policy.loading import load_policy
    from alpkit.policy.logprobs import response_logprobs

    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    model = load_policy(options.model).model
    timer = Timer()
    attach = {"none": no_noise, "ours": ours}.get(options.form)
    noise, extra = attach(model, options, timer) if attach else peer(model, options)
    optimizer = torch.optim.AdamW([*model.parameters(), *extra], lr=1e-6)
    vocabulary = model.config.vocab_size
    tokens = torch.randint(0, vocabulary, (options.rows, options.tokens))
    attention = torch.ones_like(tokens, dtype=torch.bool)
    response = attention.clone()
    response[:, 0] = False

    def gradients(index: int) -> None:
        with noise(index, attention):
            loss = response_logprobs(model, tokens, attention, response).logp.mean()
            (-loss).backward()

    peak = peak_bytes(lambda: gradients(0))
    held = sum(t.numel() * t.element_size() for t in (*model.parameters(), *extra))
    found = {"peak": peak + 3 * held}  # weights and both moments of AdamW stand beside it
    found["rss"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if options.form != "ours":
        return found
    steps = []
    for index in range(1, 1 + options.steps):
        optimizer.zero_grad(set_to_none=True)
        timer.reset()
        start, cpu = time.perf_counter(), time.process_time()
        gradients(index)
        optimizer.step()
        wall, cpu = time.perf_counter() - start, time.process_time() - cpu
        steps.append((timer.wall, wall, timer.cpu, cpu / options.threads))
        print(f"step {index}: {timer.wall:.2f} of {wall:.2f} s", file=sys.stderr)
    inside, wall, cpu_inside, cpu = (sum(column) for column in zip(*steps, strict=True))
    return found | {
        "seconds": statistics.median(step[1] for step in steps),
        "share": inside / wall,
        "worst": max(step[0] / step[1] for step in steps),
        "cpu_share": cpu_inside / cpu,
        "cpu_inside": cpu_inside / options.steps,
        "cpu_seconds": cpu / options.steps,
    }


def peak_bytes(step: Callable[[], None]) -> int:
    """Largest sum of live tensor bytes allocated during `step`, from the profiler's memory events."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak


class Timer:
    """Seconds, on the wall and of this thread's CPU, in the functions it wraps (never nested)."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.wall = self.cpu = 0.0

    def wrap(self, function: Callable) -> Callable:
        def timed(*args, **kwargs):
            wall, cpu = time.perf_counter(), time.thread_time()
            try:
                return function(*args, **kwargs)
            finally:
                self.wall += time.perf_counter() - wall
                self.cpu += time.thread_time() - cpu

        return timed


def no_noise(model, options, timer):
    return lambda index, mask: nullcontext(), []


def ours(model, options, timer):
    from alpkit.config import PerturbationConfig
    from alpkit.policy.perturbation import LayerwisePerturbation, noise

    perturbation_class = LayerwisePerturbation
    for name in ("_add", "_before_decoder", "_refuse_nonfinite", "metrics"):
        setattr(perturbation_class, name, timer.wrap(getattr(perturbation_class, name)))
    noise._AddNoise.backward = staticmethod(timer.wrap(noise._AddNoise.backward))
    config = PerturbationConfig(sigma={"init": SIGMA}, scale=options.scale)
    perturbation = perturbation_class(model, config)

    def noisy(index, mask):
        perturbation.metrics()  # once per step, as the trainer does: the next forward is measured
        return perturbation.active((0, index, 0), mask=mask)

    return noisy, perturbation.parameters()


def peer(model, options):
    """The naive forms: z from one generator per layer, kept by autograd or drawn again by a checkpoint."""
    import torch
    from torch.utils.checkpoint import checkpoint

    from alpkit.policy.perturbation.sites import decoder_layers

    layers = decoder_layers(model)
    log_sigma = torch.nn.Parameter(torch.full((len(layers),), SIGMA).log())
    seed = [0]

    def add(hidden, size, layer):
        generator = torch.Generator().manual_seed(1000 * seed[0] + layer)
        z = torch.randn(hidden.shape, generator=generator)
        if options.scale == "rms":
            z = z * hidden.detach().pow(2).mean(-1, keepdim=True).sqrt()
        return hidden + size.exp() * z

    def hook(layer):
        def perturb(module, args, kwargs):
            size = log_sigma[layer]
            if options.form == "stored":
                noisy = add(args[0], size, layer)
            else:
                noisy = checkpoint(
                    add, args[0], size, layer, use_reentrant=False, preserve_rng_state=False
                )
            return (noisy, *args[1:]), kwargs

        return perturb

    for index, layer in enumerate(layers):
        layer.register_forward_pre_hook(hook(index), with_kwargs=True)

    def noisy(index, mask):
        seed[0] = index
        return nullcontext()

    return noisy, [log_sigma]


def render(found: dict[str, dict[str, float]], options: argparse.Namespace) -> str:
    import torch
    import transformers

    own = found["ours"]
    added = {form: found[form]["peak"] / found["none"]["peak"] - 1 for form in FORMS}
    mib = 2**20
    rows = [
        f"| {form} | {f['peak'] / mib:,.0f} | {added[form]:+.2%} | {f['rss'] / mib:,.0f} |"
        for form, f in found.items()
    ]
    today = datetime.now(UTC).date().isoformat()
    lines = [
        "# Cost of the perturbation",
        "",
        f"Written by `python benchmarks/perturbation.py`; measured {today} with torch "
        f"{torch.__version__}, transformers {transformers.__version__}, Python "
        f"{platform.python_version()}, {options.threads} threads on {os.cpu_count()} CPU cores "
        f"(load average {os.getloadavg()[1]:.1f}: above {os.cpu_count()} the machine was shared).",
        "",
        f"`{options.model}`, {options.rows} x {options.tokens} tokens, float32, noise at the input of "
        f"every layer, scale {options.scale}, learnable sigma; {options.steps} steps of forward, "
        "backward and AdamW.",
        "",
        f"- Seconds inside the perturbation's forward and backward: **{own['share']:.2%}** of the steps' "
        f"seconds on the wall (worst step {own['worst']:.2%}, median step {own['seconds']:.1f} s; target "
        "at most 3 %).",
        f"- The same in CPU time, which a busy machine does not stretch: {own['cpu_inside']:.2f} s of one "
        f"thread against {own['cpu_seconds']:.1f} s per thread and step, **{own['cpu_share']:.2%}**.",
        f"- Added peak memory: **{added['ours']:+.2%}** of the step without noise (target at most 1 %).",
        "",
        "The seconds include measuring the noise that arrived, the checks that states are finite, and "
        "the metrics.",
        "",
        "| form | peak memory, MiB | added | peak RSS, MiB |",
        "| --- | --- | --- | --- |",
        *rows,
        "",
        "Peak memory is the tensor allocator's over one forward and backward, with weights, gradients and "
        "the optimizer's two moments. `stored`: plain autograd, which keeps every layer's z. "
        "`micro-checkpoint`: the addition inside torch.utils.checkpoint. RSS includes the allocator's "
        "slack and the profiler's events.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
