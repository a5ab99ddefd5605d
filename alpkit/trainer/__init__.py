"""One step, one loop: sample, score, update several times, measure, sync.

This file names no method. One optimizer update is in `alpkit.trainer.update`, what a correction does in
`alpkit.objective`, where noise goes in `alpkit.policy.perturbation`, what is logged in `alpkit.trainer.measure`.

    train_cell(config, folder, tracker)

A `step` is one rollout and its `updates_per_rollout` optimizer updates. Step 0 is the evaluation
before any training. Every random stream is keyed by (seed, purpose, step, ...), so a resumed run
and an uninterrupted one are the same run, and arms of one seed share prompts and draws.
"""

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from alpkit.config import RunConfig
from alpkit.errors import NumericalError
from alpkit.runs.evaluations import rewind as rewind_evaluations
from alpkit.runs.records import rewind as rewind_records
from alpkit.tracking import Tracker
from alpkit.trainer import spike_watch as spikes
from alpkit.trainer.batches import Batch, cut
from alpkit.trainer.clock import Clock
from alpkit.trainer.collect import collect, held_out_scores
from alpkit.trainer.measure import (
    TokenTable,
    batch_metrics,
    engine_metrics,
    gather,
    ratio_metrics,
    receipt_metrics,
)
from alpkit.trainer.memory import PeakMemory
from alpkit.trainer.state import Run, decoder, match_sigma, resume, save, save_for_replay, set_up
from alpkit.trainer.update import Place, Update, logp_old, update_policy

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
        spikes.rewind(folder, done)
        rewind_records(folder, done)
        rewind_evaluations(folder, done)
        if done is None:
            match_sigma(run)
            tracker.log(0, first_look(run))
        for step in range((done or 0) + 1, config.train.steps + 1):
            clock, memory = Clock(), PeakMemory()
            metrics = train_step(run, step, clock) | memory.metrics()
            if run.evaluates_at(step):
                with clock("eval"):
                    metrics |= held_out_scores(run, step)
            tracker.log(step, metrics | clock.metrics())
            # After the log: a kill in between repeats the step instead of leaving a hole.
            if step % config.checkpoint.every == 0 or step == config.train.steps:
                save(run, step)
        run.records.flush()
    finally:
        try:
            run.sampler.close()
        finally:
            run.records.close()


def first_look(run: Run) -> dict[str, float]:
    """Step 0: prove the weight sync, then score the policy before any training."""
    clock = Clock()
    with clock("sync"):
        gap = run.probe.prove_sync(run.sampler, run.policy.model, run.config.seed)
    with clock("eval"):
        scores = held_out_scores(run, 0)
    return scores | gap.metrics() | clock.metrics()


def train_step(run: Run, step: int, clock: Clock) -> dict[str, float]:
    """One rollout and its updates; returns the step's metrics."""
    config = run.config
    lag = run.history.version - run.history.sampler_version
    if run.perturbation is not None:
        run.perturbation.at_step(step)
    with clock("rollout"):
        batch = collect(run, step)
    metrics = batch_metrics(batch, config.rollout.group) | {"policy/lag": float(lag)}
    _refuse_too_many_nonfinite(run, batch, step)

    due = step % config.records.every == 0 or step in (1, config.train.steps)
    diagnose = due or step % config.diagnostics.every == 0
    plan = cut(
        batch,
        updates=config.train.updates_per_rollout,
        micro_batch_tokens=config.train.micro_batch_tokens,
    )
    old: dict[int, Tensor] = {}
    if diagnose or config.objective.needs_logp_old:
        with clock("logp_old"):
            old = logp_old(run, plan)

    if due and config.records.replay:
        with clock("records"):
            save_for_replay(run, step)
    updates = [
        update_policy(Place(run, step, update, diagnose, clock), micros, old)
        for update, micros in enumerate(plan)
    ]
    with clock("diagnostics"):
        tokens = gather([rows for update in updates for rows in update.rows])
        run.tokens += len(tokens)
        metrics |= _update_metrics(updates)
        outputs = [output for update in updates for output in update.outputs]
        metrics |= receipt_metrics(outputs, config.objective, draws=config.draws)
        for bound in run.receipts.update(metrics):
            logger.warning(
                "step %d: the %s has touched no token so far: it does nothing", step, bound
            )
        if diagnose:
            metrics |= ratio_metrics(tokens, config.objective) | engine_metrics(tokens)
        verdicts, stood_out = run.spikes.judge(metrics)
        metrics |= verdicts
        if run.perturbation is not None:
            metrics |= run.perturbation.metrics()
    with clock("sync"):
        metrics |= sync(run)
    if due or stood_out:
        with clock("records"):
            record(run, step, batch, tokens, stood_out)
    samples = step * config.rollout.prompts * config.rollout.group
    return metrics | {"progress/tokens": float(run.tokens), "progress/samples": float(samples)}


def sync(run: Run) -> dict[str, float]:
    """Hand the sampler its next weights and compare the engines on the probe."""
    run.history.advance()
    run.sampler.sync(run.history.weights())
    with run.history.as_sampled():
        return run.probe.check(run.sampler, run.policy.model).metrics()


def record(
    run: Run, step: int, batch: Batch, tokens: TokenTable, stood_out: Sequence[spikes.Found]
) -> None:
    """Write the step's tokens and sequences, and who made the metrics that stood out."""
    columns = tokens.host()
    if stood_out:
        responses = {row: list(own.token_ids) for row, own in enumerate(batch.responses)}
        lines = [
            spikes.explain(step, found, columns, responses, decoder(run.policy))
            for found in stood_out
        ]
        spikes.append(run.folder, lines)
    internal = {"slope"} if run.config.records.weight else {"slope", "weight"}
    recorded = {name: values for name, values in columns.items() if name not in internal}
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
    run.records.write(step, recorded, sequences)


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
