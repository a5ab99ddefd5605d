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

import torch

from alpkit.config import RunConfig
from alpkit.config.environment import not_isolated
from alpkit.errors import NumericalError
from alpkit.runs.batching import write_batching
from alpkit.runs.evaluations import rewind_evaluations
from alpkit.runs.notice import asked_to_stop, stopped
from alpkit.runs.records import rewind as rewind_records
from alpkit.runs.spike_log import append_spikes, rewind_spikes
from alpkit.runs.steps import Tracker
from alpkit.trainer.batches import Batch, TokenTable, cut, gather, likeliest_rows
from alpkit.trainer.batching_floor import floor_metrics, measure_batching
from alpkit.trainer.clock import Clock, PeakMemory
from alpkit.trainer.collect import collect, held_out_scores
from alpkit.trainer.divergence import DivergedPolicy, refuse_divergence
from alpkit.trainer.measure import (
    advantage_part,
    engine_part,
    ratio_part,
    read_out,
    receipt_part,
    rollout_part,
)
from alpkit.trainer.speed import Work
from alpkit.trainer.spike_watch import Found, explain
from alpkit.trainer.state import (
    TrainerState,
    decoder,
    match_sigma,
    resume,
    save,
    save_for_replay,
    set_up,
)
from alpkit.trainer.update import Update, update_policy, with_logp_old

logger = logging.getLogger("alpkit.trainer")


def train_cell(config: RunConfig, folder: Path, tracker: Tracker) -> None:
    """Train one cell to its last step, resuming from `folder`'s newest checkpoint if there is one.

    Logs one line of metrics per step to `tracker`; writes records and checkpoints under `folder`.
    Raises `RolloutError` (sampler cannot be trusted) and `NumericalError` (too much is non-finite).
    """
    state = set_up(config, folder)
    logger.info("%s", start_line(state))
    try:
        done = resume(state)
        tracker.rewind(done)
        rewind_spikes(folder, done)
        rewind_records(folder, done)
        rewind_evaluations(folder, done)
        if done is None:
            match_sigma(state)
            tracker.log(0, first_look(state))
        for step in range((done or 0) + 1, config.train.steps + 1):
            clock, memory = Clock(), PeakMemory()
            try:
                metrics = train_step(state, step, clock) | memory.metrics()
            except DivergedPolicy as error:
                tracker.log(step, error.metrics | clock.metrics())
                raise
            if state.evaluates_at(step):
                with clock("eval"):
                    metrics |= held_out_scores(state, step)
            tracker.log(step, metrics | clock.metrics())
            # After the log: a kill in between repeats the step instead of leaving a hole.
            stop = asked_to_stop() and step < config.train.steps
            if step % config.checkpoint.every == 0 or step == config.train.steps or stop:
                save(state, step)
            if stop:
                raise stopped(step)
        state.records.flush()
    finally:
        state.close()


def start_line(state: TrainerState) -> str:
    """Describe the run in one line: model, precision, engine, environment, and what is not isolated in it."""
    config, facts = state.config, state.sampler.facts()
    environment = config.environment
    talk = f", environment {environment.name} of {environment.turns} turns" if environment else ""
    if text := not_isolated(environment):
        talk += f" ({text})"
    told = "".join(f", {key} {value:.3f}" for key, value in facts.items())
    return (
        f"start: {config.model}, dtype {config.dtype}, head {config.head}, "
        f"sampler {config.rollout.engine}{told}{talk}"
    )


def first_look(state: TrainerState) -> dict[str, float]:
    """Take step 0: prove the weight sync, then score the policy before any training."""
    clock = Clock()
    with clock("sync"):
        gap = state.probe.prove_sync(state.sampler, state.policy.model, state.config.seed)
    with clock("eval"):
        scores = held_out_scores(state, 0)
    return scores | gap.metrics() | state.sampler.facts() | clock.metrics()


def train_step(state: TrainerState, step: int, clock: Clock) -> dict[str, float]:
    """Take one step: a rollout and its updates; returns the step's metrics."""
    config = state.config
    lag = state.history.version - state.history.sampler_version
    if state.perturbation is not None:
        state.perturbation.at_step(step)
    with clock("rollout"):
        batch = collect(state, step)
    _refuse_too_many_nonfinite(batch, config.diagnostics.max_nonfinite)

    due = step % config.records.every == 0 or step in (1, config.train.steps)
    diagnose = due or step % config.diagnostics.every == 0
    plan = cut(
        batch,
        updates=config.train.updates_per_rollout,
        tokens=config.hardware.micro_batch_tokens,
        aim=state.forward_tokens,
        padded=state.packing is None,
    )
    if diagnose or config.objective.needs_logp_old:
        with clock("logp_old"):
            plan = with_logp_old(state, plan)

    floor: dict[str, float] = {}
    if step == 1 and config.diagnostics.batching_floor:
        with clock("diagnostics"):
            measured = measure_batching(state, batch)
            write_batching(state.folder, measured)
            floor = floor_metrics(measured)
    if due and config.records.replay:
        with clock("records"):
            save_for_replay(state, step)
    updates = [update_policy(state, micros, diagnose=diagnose, clock=clock) for micros in plan]
    with clock("diagnostics"):
        tokens = gather([rows for update in updates for rows in update.rows])
        state.tokens += len(tokens)
        outputs = [output for update in updates for output in update.outputs]
        parts = [
            rollout_part(batch, config.rollout.group),
            receipt_part(outputs, config.objective, draws=config.draws),
            advantage_part(tokens),
        ]
        if diagnose:
            parts += [ratio_part(tokens, config.objective), engine_part(tokens)]
        metrics = {"policy/lag": float(lag)} | floor | read_out(parts)
        metrics |= _update_metrics(updates) | state.loss_scale.metrics() | state.rates.metrics()
        for bound in state.receipts.count_idle(metrics):
            logger.warning(
                "step %d: the %s has touched no token so far: it does nothing", step, bound
            )
        verdicts, stood_out = state.spikes.judge(metrics)
        metrics |= verdicts
        if state.perturbation is not None:
            metrics |= state.perturbation.metrics()
            state.noise.look(step, metrics)
        if text := state.rewards.look(metrics):
            logger.warning("step %d: %s", step, text)
    with clock("sync"):
        refuse_divergence(state, step, metrics)
        metrics |= sync(state)
    if due or stood_out:
        with clock("records"):
            record(state, batch, tokens, stood_out)
    samples = step * config.rollout.prompts * config.rollout.group
    work = Work.of(micro for micros in plan for micro in micros)
    metrics |= state.speed.metrics(work, clock)
    return metrics | {"progress/tokens": float(state.tokens), "progress/samples": float(samples)}


def sync(state: TrainerState) -> dict[str, float]:
    """Hand the sampler its next weights and compare the engines on the probe."""
    state.history.advance()
    state.sampler.sync(state.history.weights())
    with state.history.as_sampled():
        return state.probe.check(state.sampler, state.policy.model).metrics()


def record(
    state: TrainerState, batch: Batch, tokens: TokenTable, stood_out: Sequence[Found]
) -> None:
    """Write the step's tokens and sequences, and who made the metrics that stood out."""
    columns = tokens.host()
    if stood_out:
        responses = {row: list(answer.token_ids) for row, answer in enumerate(batch.responses)}
        lines = [
            explain(batch.step, spike, columns, responses, decoder(state.policy))
            for spike in stood_out
        ]
        append_spikes(state.folder, lines)
    internal = {"slope"} if state.config.records.weight else {"slope", "weight"}
    recorded = {name: values for name, values in columns.items() if name not in internal}
    rollout = batch.rollout
    # Up to its first response token a row is prompt.
    prompt_mask = rollout.attention & (rollout.response.long().cumsum(dim=1) == 0)
    sequences: dict[str, list[object]] = {
        "sample": list(range(len(rollout))),
        "prompt": rollout.prompt.tolist(),
        "prompt_ids": [
            row[mask].tolist() for row, mask in zip(rollout.tokens, prompt_mask, strict=True)
        ],
        "response_ids": [list(response.token_ids) for response in batch.responses],
        "response_mask": [
            None if response.sampled is None else list(map(int, response.sampled))
            for response in batch.responses
        ],
        "reward": batch.reward.tolist(),
        "advantage": batch.response_advantage.tolist(),
        "finish": [response.finish for response in batch.responses],
    }
    likeliest = likeliest_rows(batch) if state.config.records.top_logprobs else None
    state.records.write(batch.step, recorded, sequences, likeliest)


def _update_metrics(updates: Sequence[Update]) -> dict[str, float]:
    norms = [update.grad_norm for update in updates if not update.skipped]
    skipped = float(len(updates) - len(norms))
    metrics = {
        "train/loss": sum(update.loss for update in updates) / len(updates),
        "train/skipped_updates": skipped,
        "nonfinite/grad_norm": float(sum(not math.isfinite(u.grad_norm) for u in updates)),
    }
    if norms:
        metrics |= {"train/grad_norm": sum(norms) / len(norms), "train/grad_norm_max": max(norms)}
    return metrics


def _refuse_too_many_nonfinite(batch: Batch, limit: float) -> None:
    response = batch.rollout.response
    bad, sampled = torch.stack([batch.nonfinite.sum(), response.sum()]).tolist()
    share = bad / sampled
    if share > limit:
        raise NumericalError(
            f"{bad} sampler log-probs ({share:.1%}) are NaN or infinite",
            where=f"step {batch.step}",
            why=f"more than diagnostics.max_nonfinite = {limit:.1%}",
            fix="look at the engine's precision; a masked batch is not the batch that was sampled",
        )
