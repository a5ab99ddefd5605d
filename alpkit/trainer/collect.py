"""Sample a step: the training rollout with its rewards, and the held-out evaluation."""

from collections.abc import Sequence
from functools import partial

from alpkit.objective import group_advantage
from alpkit.policy.loading import encode_prompt, pad_id
from alpkit.rollout import Request, Response, collate
from alpkit.rollout.hf import generate
from alpkit.runs.evaluations import append_evaluations
from alpkit.tasks import Item, score_all, train_items
from alpkit.tasks.evaluation import EvalSet
from alpkit.trainer.batches import Batch, requests_for
from alpkit.trainer.conversations import (
    advantage_of_turns,
    conversation_metrics,
    response_rewards,
    void_rows,
)
from alpkit.trainer.evaluate import Evaluation, evaluate, grading_metrics, over_sets
from alpkit.trainer.state import TrainerState


def collect(state: TrainerState, step: int) -> Batch:
    """Sample the step's responses and score them."""
    config = state.config
    group = config.rollout.group
    items = train_items(state.task, config.seed, step, config.rollout.prompts)
    prompts = [encode_prompt(state.policy.tokenizer, item.prompt, config.prompt) for item in items]
    requests = requests_for(items, prompts, group=group, seed=config.seed, step=step)
    asked = [items[row // group] for row in range(len(requests))]

    def sample(requests: Sequence[Request], limit: int) -> list[Response]:
        return state.sampler.generate(
            requests, max_tokens=limit, temperature=config.rollout.temperature
        )

    conversations = state.answering(sample, requests, asked, config.rollout.max_tokens)
    responses = [each.response for each in conversations]
    rollout = collate(
        requests,
        responses,
        prompt=[row // group for row in range(len(requests))],
        pad_id=pad_id(state.policy.tokenizer),
        policy_version=state.history.sampler_version,
    )
    scores = score_all(state.task, asked, [each.text for each in conversations])
    reward = response_rewards(scores.rewards, conversations)
    if config.environment is not None and config.environment.credit == "turn":
        advantage = advantage_of_turns(scores.rewards, conversations, rollout, config)
    else:
        advantage = group_advantage(reward, rollout.prompt, config.objective.advantage)
    valid = rollout.response & rollout.logp_rollout.isfinite()
    valid &= ~void_rows(conversations, config)[:, None]
    return Batch(
        step=step,
        rollout=rollout.to(state.device),
        responses=tuple(responses),
        valid=valid.to(state.device),
        reward=reward,
        advantage=advantage,
        grading={f"grading/{name}": value for name, value in grading_metrics(scores).items()},
        turns=conversation_metrics(conversations, config),
    )


def held_out_scores(state: TrainerState, step: int) -> dict[str, float]:
    """Evaluate the sets that are due, and keep how often each item was solved in the run folder.

    Under the plain names stands the mean over all sets, so only on steps where all of them are due.
    """
    last = step == state.config.train.steps
    due = [entry for entry in state.sets if last or step % entry.every == 0]
    found = {entry.name: _evaluate(state, entry) for entry in due}
    append_evaluations(
        state.folder,
        [found[entry.name].counts(step, entry.name, entry.items) for entry in due],
    )
    if not state.config.evals:
        return {
            f"eval/{stat}": value for own in found.values() for stat, value in own.metrics().items()
        }
    metrics = over_sets({name: own.metrics() for name, own in found.items()})
    if len(due) < len(state.sets):
        return {key: value for key, value in metrics.items() if key.count("/") == 2}
    return metrics


def _evaluate(state: TrainerState, entry: EvalSet) -> Evaluation:
    """Evaluate one set: the trainer's own weights, or the sampler's rendering of them."""
    config, policy = state.config, state.policy

    def sample(requests: Sequence[Request], limit: int, *, temperature: float) -> list[Response]:
        top_p = entry.top_p if temperature else 1.0
        if config.eval.engine == "sampler":
            return state.sampler.generate(
                requests, max_tokens=limit, temperature=temperature, top_p=top_p
            )
        return generate(
            policy.model,
            requests,
            max_tokens=limit,
            temperature=temperature,
            stop_ids=state.stop_ids,
            pad_id=pad_id(policy.tokenizer),
            batch=config.hardware.eval_batch,
            precision=state.precision,
            stop_text=state.stop_text,
            top_p=top_p,
        )

    def answer(requests: Sequence[Request], items: Sequence[Item], temperature: float) -> list[str]:
        tokens = partial(sample, temperature=temperature)
        return [each.text for each in state.answering(tokens, requests, items, entry.max_tokens)]

    return evaluate(
        task=entry.task,
        items=entry.items,
        prompts=[encode_prompt(policy.tokenizer, i.prompt, entry.prompt) for i in entry.items],
        k=entry.k,
        temperature=entry.temperature,
        seed=config.seed,
        answer=answer,
        name=entry.name if config.evals else None,
    )
