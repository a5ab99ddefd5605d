"""One step, one loop: sample, score, update several times, measure, sync.

This file names no method. What a correction does is in `alpkit.objective`; where noise goes, in
`alpkit.policy.perturbation`; what is logged, in `alpkit.measure`.

    train_cell(config, folder, tracker)

A `step` is one rollout and its `updates_per_rollout` optimizer updates. Step 0 is the evaluation
before any training. Every random stream is keyed by (seed, purpose, step, ...), so a resumed run
and an uninterrupted one are the same run, and arms of one seed share prompts and draws.
"""

import logging
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from alpkit.batches import Batch, MicroBatch, cut, requests_for
from alpkit.cell import Run, decode, match_sigma, resume, save, set_up
from alpkit.config import RunConfig
from alpkit.errors import NumericalError
from alpkit.evaluation import evaluate
from alpkit.measure import (
    TokenTable,
    batch_metrics,
    divergence_metrics,
    gather,
    ratio_metrics,
    receipt_metrics,
    token_rows,
)
from alpkit.objective import (
    LossOutput,
    Normalizer,
    group_advantage,
    normalizer_sums,
    policy_loss,
    removal_agreement,
    whole_batch,
)
from alpkit.policy.loading import encode_prompt, pad_id, stop_ids
from alpkit.policy.logprobs import TokenLogprobs, response_logprobs
from alpkit.rollout import Request, Response, collate
from alpkit.rollout.hf import generate
from alpkit.tasks import train_items
from alpkit.tracking import Tracker

logger = logging.getLogger("alpkit.trainer")


def train_cell(config: RunConfig, folder: Path, tracker: Tracker) -> None:
    """Train one cell to its last step, resuming from `folder`'s newest checkpoint if there is one.

    Logs one line of metrics per step to `tracker`; writes records and checkpoints under `folder`.
    Raises `RolloutError` (sampler cannot be trusted) and `NumericalError` (too much is non-finite).
    """
    run = set_up(config, folder)
    try:
        done = resume(run)
        tracker.rewind(done)
        if done is None:
            match_sigma(run)
            tracker.log(0, first_look(run))
        for step in range((done or 0) + 1, config.train.steps + 1):
            clock = Clock()
            metrics = train_step(run, step, clock)
            if step % config.eval.every == 0 or step == config.train.steps:
                with clock("eval"):
                    metrics |= held_out_scores(run)
            tracker.log(step, metrics | clock.metrics())
            # After the log: a kill in between repeats the step instead of leaving a hole.
            if step % config.checkpoint.every == 0 or step == config.train.steps:
                save(run, step)
    finally:
        run.sampler.close()


def first_look(run: Run) -> dict[str, float]:
    """Step 0: prove the weight sync, then score the policy before any training."""
    clock = Clock()
    with clock("sync"):
        gap = run.probe.test_sync(run.sampler, run.policy.model, run.config.seed)
    with clock("eval"):
        scores = held_out_scores(run)
    return scores | gap.metrics() | clock.metrics()


def train_step(run: Run, step: int, clock: "Clock") -> dict[str, float]:
    """One rollout and its updates; returns the step's metrics."""
    config = run.config
    lag = run.history.version - run.history.sampler_version
    if run.perturbation is not None:
        run.perturbation.at_step(step)
    with clock("rollout"):
        batch = collect(run, step)
    metrics = batch_metrics(batch, config.rollout.group) | {"policy/lag": float(lag)}
    _refuse_too_many_nonfinite(run, batch, step)

    diagnose = step % config.diagnostics.every == 0
    plan = cut(
        batch,
        updates=config.train.updates_per_rollout,
        micro_batch_tokens=config.train.micro_batch_tokens,
    )
    old: dict[int, Tensor] = {}
    if diagnose or config.objective.needs_logp_old:
        with clock("logp_old"):
            old = logp_old(run, plan)

    updates = [
        update_policy(run, step, update, micros, old, diagnose, clock)
        for update, micros in enumerate(plan)
    ]
    with clock("diagnostics"):
        tokens = gather([rows for update in updates for rows in update.rows])
        run.tokens += len(tokens["token"])
        metrics |= _update_metrics(updates)
        metrics |= receipt_metrics([o for u in updates for o in u.outputs], config.objective)
        for bound in run.receipts.update(metrics):
            logger.warning(
                "step %d: the %s has touched no token so far: it does nothing", step, bound
            )
        if diagnose:
            metrics |= divergence_metrics(tokens) | ratio_metrics(tokens, config.objective)
            metrics |= _spike_metrics(run, metrics["kl/k3"])
        if run.perturbation is not None:
            metrics |= run.perturbation.metrics()
    with clock("sync"):
        metrics |= sync(run)
    if step % config.records.every == 0 or step in (1, config.train.steps):
        with clock("records"):
            record(run, step, batch, tokens)
    samples = step * config.rollout.prompts * config.rollout.group
    return metrics | {"progress/tokens": float(run.tokens), "progress/samples": float(samples)}


def collect(run: Run, step: int) -> Batch:
    """Sample the step's responses and score them."""
    config = run.config
    group = config.rollout.group
    items = train_items(run.task, config.seed, step, config.rollout.prompts)
    prompts = [encode_prompt(run.policy.tokenizer, item.prompt) for item in items]
    requests = requests_for(items, prompts, group=group, seed=config.seed, step=step)
    responses = run.sampler.generate(
        requests, max_tokens=config.rollout.max_tokens, temperature=config.rollout.temperature
    )
    rollout = collate(
        requests,
        responses,
        prompt=[row // group for row in range(len(requests))],
        pad_id=pad_id(run.policy.tokenizer),
        policy_version=run.history.sampler_version,
    )
    reward = torch.tensor(
        [
            run.task.score(items[row // group], decode(run.policy, response))
            for row, response in enumerate(responses)
        ]
    )
    advantage = group_advantage(reward, rollout.prompt, config.objective.advantage)
    valid = rollout.response & rollout.logp_rollout.isfinite()
    return Batch(
        rollout=rollout.to(run.device),
        responses=tuple(responses),
        valid=valid.to(run.device),
        reward=reward,
        advantage=advantage,
    )


@torch.no_grad()
def logp_old(run: Run, plan: Sequence[Sequence[MicroBatch]]) -> dict[int, Tensor]:
    """log pi_old of every micro-batch, by its first sample: same cut as the updates, no noise."""
    with run.history.as_sampled():
        return {
            int(micro.sample[0]): _logprobs(run, micro).logp for micros in plan for micro in micros
        }


@dataclass(frozen=True)
class Update:
    """What one optimizer update left behind."""

    loss: float
    grad_norm: float
    survivors: bool
    outputs: list[LossOutput]
    rows: list[dict[str, Tensor]]

    @property
    def skipped(self) -> bool:
        return not math.isfinite(self.grad_norm) or not self.survivors


def update_policy(
    run: Run,
    step: int,
    update: int,
    micros: Sequence[MicroBatch],
    old: dict[int, Tensor],
    diagnose: bool,
    clock: "Clock",
) -> Update:
    """One optimizer update on one mini-batch, micro-batch by micro-batch.

    The loss is averaged over the noise's draws; records and ratio metrics show the first.
    """
    config = run.config
    draws = 1 if run.perturbation is None else run.perturbation.config.draws
    normalizer = _normalizer(run, step, update, micros, old, clock)
    outputs, rows, loss = [], [], 0.0
    for micro in micros:
        per_token: dict[str, Tensor] = {}
        reference = old.get(int(micro.sample[0]))
        if reference is not None:
            per_token["logp_old"] = reference
        if run.perturbation is not None and diagnose:
            with clock("diagnostics"), torch.no_grad():
                clean = _logprobs(run, micro)
                per_token |= {"logp_train": clean.logp, "entropy": clean.entropy}
        with clock("update"):
            start = _logp_reference(run, micro)
        drawn = []
        for draw in range(draws):
            with clock("update"), _noise(run, step, update, micro, draw):
                scored = _logprobs(run, micro)
                output = policy_loss(
                    logp=scored.logp,
                    logp_old=reference,
                    logp_rollout=micro.rollout.logp_rollout,
                    mask=micro.valid,
                    advantage=micro.advantage.to(run.device),
                    config=config.objective,
                    normalizer=normalizer,
                    logp_reference=start,
                )
                (output.loss / draws).backward()
            drawn.append((scored, output))
        scored, output = drawn[0]
        if run.perturbation is None:
            per_token |= {"logp_train": scored.logp, "entropy": scored.entropy}
        else:
            per_token["logp_perturbed"] = scored.logp
        per_token |= {"keep": output.keep, "weight": output.weight}
        if diagnose and (other := config.compared) is not None:
            output.receipt.update(
                removal_agreement(
                    output.keep,
                    logp=scored.logp,
                    logp_old=reference,
                    logp_rollout=micro.rollout.logp_rollout,
                    mask=micro.valid,
                    advantage=micro.advantage.to(run.device),
                    config=other,
                )
            )
        rows.append(token_rows(update, micro, per_token, micro.rollout.policy_version))
        outputs += [output for _, output in drawn]
        loss += sum(float(output.loss.detach()) for _, output in drawn) / draws
    with clock("update"):
        survivors = any(bool(output.keep.any()) for output in outputs)
        grad_norm = _apply(run, skip=not survivors)
    return Update(loss, grad_norm, survivors, outputs, rows)


def sync(run: Run) -> dict[str, float]:
    """Hand the sampler its next weights and compare the engines on the probe."""
    run.history.advance()
    run.sampler.sync(run.history.weights())
    with run.history.as_sampled():
        return run.probe.check(run.sampler, run.policy.model).metrics()


def held_out_scores(run: Run) -> dict[str, float]:
    """Evaluate on the held-out items: the trainer's own weights, or the sampler's rendering of them."""
    config, policy = run.config, run.policy

    def respond(requests: Sequence[Request], temperature: float) -> list[Response]:
        max_tokens = config.rollout.max_tokens
        if config.eval.engine == "sampler":
            return run.sampler.generate(requests, max_tokens=max_tokens, temperature=temperature)
        return generate(
            policy.model,
            requests,
            max_tokens=max_tokens,
            temperature=temperature,
            stop_ids=stop_ids(policy.model, policy.tokenizer),
            pad_id=pad_id(policy.tokenizer),
        )

    return evaluate(
        task=run.task,
        items=run.held_out,
        prompts=[encode_prompt(policy.tokenizer, item.prompt) for item in run.held_out],
        k=config.eval.k,
        temperature=config.rollout.temperature,
        seed=config.seed,
        generate=respond,
        decode=lambda response: decode(policy, response),
    )


def record(run: Run, step: int, batch: Batch, tokens: TokenTable) -> None:
    """Write the step's tokens and sequences."""
    columns = {name: values for name, values in tokens.columns.items() if name != "weight"}
    rollout = batch.rollout
    prompt_mask = rollout.attention & ~rollout.response
    sequences: dict[str, Any] = {
        "sample": list(range(len(rollout))),
        "prompt": rollout.prompt.tolist(),
        "prompt_ids": [
            row[mask].tolist() for row, mask in zip(rollout.tokens, prompt_mask, strict=True)
        ],
        "response_ids": [list(response.token_ids) for response in batch.responses],
        "reward": batch.reward.tolist(),
        "advantage": batch.advantage.tolist(),
        "finish": [response.finish for response in batch.responses],
    }
    run.records.write(step, columns, sequences)


class Clock:
    """Wall-clock seconds of a step by what they were spent on; nested spans count once, inside."""

    def __init__(self) -> None:
        self.start = time.perf_counter()
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            elapsed = time.perf_counter() - start
            self.seconds[name] = self.seconds.get(name, 0.0) + elapsed

    def metrics(self) -> dict[str, float]:
        found = {f"time/{name}": seconds for name, seconds in self.seconds.items()}
        return found | {"time/step": time.perf_counter() - self.start}


def _logprobs(run: Run, micro: MicroBatch, model: PreTrainedModel | None = None) -> TokenLogprobs:
    """Response log-probs of `model` (the policy) under whatever weights and noise are on now."""
    rollout, config = micro.rollout, run.config
    with torch.autocast(run.device.type, torch.bfloat16, enabled=config.dtype == "bfloat16"):
        return response_logprobs(
            run.policy.model if model is None else model,
            rollout.tokens,
            rollout.attention,
            rollout.response,
            temperature=config.rollout.temperature,
            chunk=config.train.head_chunk,
        )


def _noise(
    run: Run, step: int, update: int, micro: MicroBatch, draw: int = 0
) -> AbstractContextManager[None]:
    if run.perturbation is None:
        return nullcontext()
    key = (run.config.seed, step, update)
    return run.perturbation.active(
        key, sample=micro.sample, mask=micro.rollout.attention, draw=draw
    )


def _logp_reference(run: Run, micro: MicroBatch) -> Tensor | None:
    """Log-probs of the policy that training started from, or None where no model of it is held."""
    if run.reference is None:
        return None
    with torch.no_grad():
        return _logprobs(run, micro, run.reference).logp


def _normalizer(
    run: Run,
    step: int,
    update: int,
    micros: Sequence[MicroBatch],
    old: dict[int, Tensor],
    clock: "Clock",
) -> Normalizer:
    """The mini-batch's denominators, so that cutting it into micro-batches changes nothing.

    Rejections that shrink them, and weights that are divided by their mean, must be known of all
    micro-batches before the first loss; where they look at the current policy, that costs a forward.
    """
    objective = run.config.objective
    sums = []
    for micro in micros:
        now = None
        if "bypass" in objective.of_whole_batch:
            with clock("update"), torch.no_grad(), _noise(run, step, update, micro):
                now = _logprobs(run, micro).logp
        sums.append(
            normalizer_sums(
                logp=now,
                logp_old=old.get(int(micro.sample[0])),
                logp_rollout=micro.rollout.logp_rollout,
                mask=micro.valid,
                advantage=micro.advantage.to(run.device),
                config=objective,
            )
        )
    return whole_batch(sums, objective, fixed_length=run.config.rollout.max_tokens)


def _apply(run: Run, *, skip: bool) -> float:
    """Clip and step; returns the norm before clipping.

    A non-finite gradient is dropped and shows in the norm. `skip`: nothing survived the correction, and
    the optimizer's momentum must not move the weights in its stead.
    """
    parameters = [p for group in run.optimizer.param_groups for p in group["params"]]
    norm = float(torch.nn.utils.clip_grad_norm_(parameters, run.config.train.grad_clip))
    if math.isfinite(norm) and not skip:
        run.optimizer.step()
    run.optimizer.zero_grad(set_to_none=True)
    return norm


def _update_metrics(updates: Sequence[Update]) -> dict[str, float]:
    norms = [update.grad_norm for update in updates if not update.skipped]
    skipped = float(len(updates) - len(norms))
    found = {
        "train/loss": sum(update.loss for update in updates) / len(updates),
        "train/skipped_updates": skipped,
        "nonfinite/grad_norm": float(sum(not math.isfinite(u.grad_norm) for u in updates)),
    }
    if norms:
        found |= {"train/grad_norm": sum(norms) / len(norms), "train/grad_norm_max": max(norms)}
    return found


def _spike_metrics(run: Run, k3: float) -> dict[str, float]:
    """Is this step's KL a spike against the steps before it? Absent while history is short."""
    spike = run.spikes.update(k3)
    if spike.status != "ok":
        return {}
    return {"kl/spike": float(spike.is_spike), "kl/spike_z": spike.z}


def _refuse_too_many_nonfinite(run: Run, batch: Batch, step: int) -> None:
    bad = int((batch.rollout.response & ~batch.valid).sum())
    share = bad / int(batch.rollout.response.sum())
    if share > run.config.diagnostics.max_nonfinite:
        raise NumericalError(
            f"{bad} sampler log-probs ({share:.1%}) are NaN or infinite",
            where=f"step {step}",
            why=f"more than diagnostics.max_nonfinite = {run.config.diagnostics.max_nonfinite:.1%}",
            fix="look at the engine's precision; a masked batch is not the batch that was sampled",
        )
