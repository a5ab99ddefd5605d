"""Sample a step: the training rollout with its rewards, and the held-out evaluation."""

from collections.abc import Sequence
from functools import partial

import torch

from alpkit.objective import group_advantage
from alpkit.policy.loading import encode_prompt, pad_id
from alpkit.rollout import Request, Response, collate
from alpkit.rollout.hf import generate
from alpkit.runs.evaluations import append_evaluations
from alpkit.seeds import derive
from alpkit.tasks import Item, Scores, score_all
from alpkit.tasks.evaluation import EvalSet
from alpkit.trainer.batches import Batch
from alpkit.trainer.conversations import (
    advantage_of_turns,
    conversation_metrics,
    response_rewards,
    void_rows,
)
from alpkit.trainer.evaluate import Evaluation, evaluate, grading_metrics, over_sets
from alpkit.trainer.groups import Group, cut_off, overlong_receipt, rewarded, rewards_of, select
from alpkit.trainer.state import TrainerState


def collect(state: TrainerState, step: int) -> Batch:
    """Sample the step's responses, score them, and choose what is trained on."""
    config, prompts = state.config, state.prompts
    size, overlong = config.rollout.group, config.rollout.overlong
    scored: list[Scores] = []

    def ask(items: Sequence[Item], places: Sequence[int], draw: int) -> list[Group]:
        groups, scores = _ask(state, step, items, places, draw)
        scored.append(scores)
        return groups

    def again(draw: int, places: Sequence[int], taken: Sequence[str]) -> list[Group]:
        return ask(prompts.again(step, draw, places, taken), places, draw)

    count = config.rollout.prompts
    first = ask(prompts.of_step(step, count), range(count), 0)
    groups, trained, receipt = select(first, config.rollout.filter, again)
    conversations = [each for group in groups for each in group.conversations]
    responses = [each.response for each in conversations]
    rollout = collate(
        [request for group in groups for request in group.requests],
        responses,
        prompt=[place for place in range(count) for _ in range(size)],
        pad_id=pad_id(state.policy.tokenizer),
        policy_version=state.history.sampler_version,
    )
    reward = rewards_of(groups)
    if config.environment is not None and config.environment.credit == "turn":
        advantage = advantage_of_turns(reward.tolist(), conversations, rollout, config)
    else:
        advantage = group_advantage(reward, rollout.prompt, config.objective.advantage)
    masked = torch.tensor([overlong == "mask" and cut_off(response) for response in responses])
    used = (
        torch.tensor(trained).repeat_interleave(size) & ~masked & ~void_rows(conversations, config)
    )
    valid = rollout.response & rollout.logp_rollout.isfinite() & used[:, None]
    return Batch(
        step=step,
        rollout=rollout.to(state.device),
        responses=tuple(responses),
        valid=valid.to(state.device),
        reward=reward,
        advantage=advantage,
        grading={f"grading/{name}": value for name, value in grading_metrics(*scored).items()},
        drawn=rewards_of(first),
        receipt=prompts.receipt() | receipt | overlong_receipt(groups, overlong),
        turns=conversation_metrics(conversations, config),
    )


def _ask(
    state: TrainerState, step: int, items: Sequence[Item], places: Sequence[int], draw: int
) -> tuple[list[Group], Scores]:
    """Sample and score a group for each item; a place's streams of draws are the same for every arm."""
    config = state.config
    size = config.rollout.group
    further = (draw,) if draw else ()
    requests = [
        Request(prompt, derive(config.seed, "sampling", step, place, sample, *further))
        for prompt, place in zip(map(state.prompts.encode, items), places, strict=True)
        for sample in range(size)
    ]
    asked = [item for item in items for _ in range(size)]

    def sample(requests: Sequence[Request], limit: int) -> list[Response]:
        return state.sampler.generate(
            requests, max_tokens=limit, temperature=config.rollout.temperature
        )

    conversations = state.answering(sample, requests, asked, config.rollout.max_tokens)
    scores = score_all(state.task, asked, [each.text for each in conversations])
    graded = response_rewards(scores.rewards, conversations)
    rewards = rewarded(graded, [each.response for each in conversations], config.rollout.overlong)
    rows = [slice(start, start + size) for start in range(0, len(requests), size)]
    groups = [
        Group(item, requests[row], conversations[row], graded[row], rewards[row])
        for item, row in zip(items, rows, strict=True)
    ]
    return groups, scores


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
