"""Where the gap between sampler and trainer comes from: one difference per cause, for `alpkit doctor`.

Scores the same sampled tokens on a chain from the trainer to the sampler in which each link changes one thing,
so that the links add up to the gap. A cause's size may depend on its place in the chain; what moves together
is told (`GapShares.together`). Trains nothing, writes nothing.

    trainer in a batch → trainer alone → float32 → float32 on the sampler's weights → the engine with a float32
    head and a full KV cache → with its own head → with its own KV cache → what it said while it sampled
"""

import copy
from itertools import cycle, islice, pairwise
from typing import Final, NamedTuple

import numpy as np
import torch
from transformers import PreTrainedModel

from alpkit.config import RunConfig
from alpkit.config.run import RolloutConfig, VllmRolloutConfig
from alpkit.policy.autocast import FLOAT32, Precision
from alpkit.policy.loading import Policy, encode_prompt, load_policy, pad_id
from alpkit.rollout import Request
from alpkit.rollout.engines import build_sampler
from alpkit.rollout.hf import score
from alpkit.rollout.precision import round_weights
from alpkit.seeds import derive
from alpkit.tasks.evaluation import ask

BATCH: Final = 8
"""Sequences of the batched side of the trainer's batching."""
CAUSES: Final = {
    "trainer's batching": f"the same tokens at batch {BATCH} and at batch 1",
    "trainer's rounding": "the trainer's dtype against float32",
    "sampler's weights": "weights rounded to the sampler's precision",
    "sampler's arithmetic": "the engine's own kernels and dtype, on these weights",
    "sampler's LM head": "logits in the engine's dtype instead of float32",
    "sampler's KV cache": "keys and values in the cache's dtype",
    "sampling": "log-probs told while sampling against those of scoring",
}
Sequences = list[tuple[tuple[int, ...], tuple[int, ...]]]


class Measured(NamedTuple):
    """Per token, nats: every cause, trainer minus sampler, and the trainer's own part of it."""

    causes: dict[str, np.ndarray]
    sequence: np.ndarray
    """The sequence that each token belongs to."""

    @property
    def floor(self) -> np.ndarray:
        """What an exact sampler would leave: the trainer against float32."""
        both = [self.causes[name] for name in ("trainer's batching", "trainer's rounding")]
        return np.asarray(both[0] + both[1])


@torch.no_grad()
def measure_gap(config: RunConfig, *, items: int = 32) -> Measured:
    """Sample a response to each of `items` held-out prompts, and score it along the chain."""
    policy = load_policy(config.model, revision=config.revision)
    policy.model.to("cuda" if torch.cuda.is_available() else "cpu")
    rollout = config.rollout
    # A task with fewer questions is asked some again: each response has draws of its own.
    prompts = [
        encode_prompt(policy.tokenizer, item.prompt, config.prompt)
        for item in islice(cycle(ask(config).held_out), items)
    ]
    requests = [Request(ids, derive(config.seed, "gap", i)) for i, ids in enumerate(prompts)]
    sampler = build_sampler(
        policy, rollout, seed=config.seed, hardware=config.hardware, prompt=config.prompt
    )
    try:
        responses = sampler.generate(
            requests, max_tokens=rollout.max_tokens, temperature=rollout.temperature
        )
        sequences = [(r.prompt_ids, a.token_ids) for r, a in zip(requests, responses, strict=True)]
        sequences = [pair for pair in sequences if pair[1]]
        said = _flat([list(answer.logp) for answer in responses])
        own = _flat(sampler.score(sequences))
    finally:
        sampler.close()
    bare = _changed(rollout, kv_cache_dtype="auto")
    whole_cache = own if bare == rollout else _scored_by(bare, policy, config, sequences)
    wide = _changed(bare, head_dtype="float32")
    whole_head = whole_cache if wide == bare else _scored_by(wide, policy, config, sequences)

    def trainer(model: PreTrainedModel, precision: Precision, batch: int) -> np.ndarray:
        scores = score(
            model,
            sequences,
            pad_id=pad_id(policy.tokenizer),
            temperature=rollout.temperature,
            precision=precision,
            batch=batch,
        )
        return _flat(scores)

    precision = Precision(config.dtype, config.head)
    batched, alone = trainer(policy.model, precision, BATCH), trainer(policy.model, precision, 1)
    exact = trainer(policy.model, FLOAT32, 1)
    rounded = trainer(_on_weights_of(rollout, policy.model), FLOAT32, 1)
    chain = [batched, alone, exact, rounded, whole_head, whole_cache, own, said]
    links = [before - after for before, after in pairwise(chain)]
    lengths = [len(response) for _, response in sequences]
    return Measured(
        dict(zip(CAUSES, links, strict=True)), np.repeat(np.arange(len(lengths)), lengths)
    )


def _changed(rollout: RolloutConfig, **settings: str) -> RolloutConfig:
    """The engine with other settings; the hf engine has neither a cache nor a head of its own."""
    if rollout.engine == "hf":
        return rollout
    return VllmRolloutConfig.model_validate(rollout.model_dump() | settings)


def _scored_by(
    rollout: RolloutConfig, policy: Policy, config: RunConfig, sequences: Sequences
) -> np.ndarray:
    sampler = build_sampler(
        policy, rollout, seed=config.seed, hardware=config.hardware, prompt=config.prompt
    )
    try:
        return _flat(sampler.score(sequences))
    finally:
        sampler.close()


def _on_weights_of(rollout: RolloutConfig, model: PreTrainedModel) -> PreTrainedModel:
    """The model in float32 on weights as the sampler holds them."""
    match rollout.engine:
        case "hf" if rollout.weights == "float32":
            return model
        case "hf":
            held = copy.deepcopy(model)
            round_weights(held, rollout.weights)
            return held
        case "vllm" if rollout.dtype == "float32":
            return model
        case _:
            held = copy.deepcopy(model)
            low = {"bfloat16": torch.bfloat16, "float16": torch.float16}[rollout.dtype]
            for weight in held.parameters():
                weight.copy_(weight.to(low))
            return held


def _flat(rows: list[list[float]]) -> np.ndarray:
    return np.concatenate([np.asarray(row, dtype=np.float64) for row in rows if row])
