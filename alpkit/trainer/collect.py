"""What a step samples: the training rollout with its rewards, and the held-out evaluation."""

from collections.abc import Sequence

import torch

from alpkit.objective import group_advantage
from alpkit.policy.loading import encode_prompt, pad_id, stop_ids
from alpkit.rollout import Request, Response, collate
from alpkit.rollout.hf import generate
from alpkit.tasks import train_items
from alpkit.trainer.batches import Batch, requests_for
from alpkit.trainer.evaluate import evaluate
from alpkit.trainer.state import TrainerState, decode


def collect(state: TrainerState, step: int) -> Batch:
    """Sample the step's responses and score them."""
    config = state.config
    group = config.rollout.group
    items = train_items(state.task, config.seed, step, config.rollout.prompts)
    prompts = [encode_prompt(state.policy.tokenizer, item.prompt) for item in items]
    requests = requests_for(items, prompts, group=group, seed=config.seed, step=step)
    responses = state.sampler.generate(
        requests, max_tokens=config.rollout.max_tokens, temperature=config.rollout.temperature
    )
    rollout = collate(
        requests,
        responses,
        prompt=[row // group for row in range(len(requests))],
        pad_id=pad_id(state.policy.tokenizer),
        policy_version=state.history.sampler_version,
    )
    reward = torch.tensor(
        [
            state.task.score(items[row // group], decode(state.policy, response))
            for row, response in enumerate(responses)
        ]
    )
    advantage = group_advantage(reward, rollout.prompt, config.objective.advantage)
    valid = rollout.response & rollout.logp_rollout.isfinite()
    return Batch(
        step=step,
        rollout=rollout.to(state.device),
        responses=tuple(responses),
        valid=valid.to(state.device),
        reward=reward,
        advantage=advantage,
    )


def held_out_scores(state: TrainerState) -> dict[str, float]:
    """Evaluate on the held-out items: the trainer's own weights, or the sampler's rendering of them."""
    config, policy = state.config, state.policy

    def respond(requests: Sequence[Request], temperature: float) -> list[Response]:
        max_tokens = config.rollout.max_tokens
        if config.eval.engine == "sampler":
            return state.sampler.generate(requests, max_tokens=max_tokens, temperature=temperature)
        return generate(
            policy.model,
            requests,
            max_tokens=max_tokens,
            temperature=temperature,
            stop_ids=stop_ids(policy.model, policy.tokenizer),
            pad_id=pad_id(policy.tokenizer),
            batch=config.hardware.eval_batch,
            precision=state.precision,
        )

    return evaluate(
        task=state.task,
        items=state.held_out,
        prompts=[encode_prompt(policy.tokenizer, item.prompt) for item in state.held_out],
        k=config.eval.k,
        temperature=config.rollout.temperature,
        seed=config.seed,
        generate=respond,
        decode=lambda response: decode(policy, response),
    )
