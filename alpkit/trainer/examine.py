"""Evaluate a trained cell or any model on any task, outside of a run: what `alpkit eval` calls.

Usage: `examine("latest", Asked(task={"name": "math"}))`. Weights are the newest checkpoint's, in
the run's precision (a bare model's in float32), sampled by the transformers engine; nothing is written.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from pydantic import ValidationError

from alpkit.config import RunConfig, explain
from alpkit.config.files.yaml import Document
from alpkit.config.tasks import EvalSetConfig
from alpkit.diagnostics.passes import Mean, mean_over_problems, pass_at_k
from alpkit.errors import ConfigError, GridError
from alpkit.policy.autocast import Precision
from alpkit.policy.loading import (
    Policy,
    check_prompt,
    encode_prompt,
    load_policy,
    pad_id,
    stop_ids,
    stop_texts,
)
from alpkit.rollout import Request, Response
from alpkit.rollout.hf import generate
from alpkit.rollout.stopping import StopText
from alpkit.runs.checkpoint import load_checkpoint
from alpkit.runs.find import resolve
from alpkit.tasks import Item
from alpkit.tasks.evaluation import EvalSet, resolve_set
from alpkit.trainer.evaluate import Evaluation, evaluate
from alpkit.trainer.state import answering_of
from alpkit.trainer.trained import trained

_LONGEST = 512
"""Response tokens for a model that no run says more about."""


@dataclass(frozen=True)
class Asked:
    """Settings of one evaluation; None: as the run did, or the configuration's default."""

    task: dict[str, object] | None = None
    items: int | None = None
    k: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    suffix: str | None = None
    system: str | None = None
    plain: bool = False
    """Leave the chat template out."""
    batch: int = 64
    seed: int | None = None


class Found(NamedTuple):
    """Scores with 95 % intervals clustered by problem; `passes[i]` is pass@(i + 1)."""

    model: str
    step: int | None
    """Step of the checkpoint; None for a model that is no run's."""
    set: EvalSet
    evaluation: Evaluation
    greedy: Mean
    average: Mean
    passes: tuple[Mean, ...]


def examine(what: str, asked: Asked) -> Found:
    """Evaluate `what`: a cell (any RUN_ID that names one), `builtin:…`, a model folder or a hub id."""
    data, checkpoint = _origin(what)
    config, entry = _config(what, data, asked)
    chosen = resolve_set(config, entry, check=True)
    policy = load_policy(config.model, revision=config.revision)
    check_prompt(policy.tokenizer, chosen.prompt)
    step = None
    if checkpoint is not None:
        step = load_checkpoint(checkpoint, policy.model)["step"]
    policy.model.to("cuda" if torch.cuda.is_available() else "cpu")
    result = _evaluate(config, policy, chosen, asked)
    solved = (result.sampled >= 1).sum(axis=1)
    return Found(
        model=config.model,
        step=step,
        set=chosen,
        evaluation=result,
        greedy=mean_over_problems(result.greedy),
        average=mean_over_problems(result.sampled.mean(axis=1)),
        passes=tuple(mean_over_problems(column) for column in pass_at_k(solved, chosen.k).T),
    )


def _evaluate(config: RunConfig, policy: Policy, chosen: EvalSet, asked: Asked) -> Evaluation:
    """Draw as the run itself does for its one set, so that a cell's numbers come again."""
    tokenizer, stop = policy.tokenizer, chosen.prompt.stop

    def sample(requests: Sequence[Request], limit: int, *, temperature: float) -> list[Response]:
        return generate(
            policy.model,
            requests,
            max_tokens=limit,
            temperature=temperature,
            stop_ids=stop_ids(policy.model, tokenizer, stop),
            pad_id=pad_id(tokenizer),
            batch=asked.batch,
            precision=Precision(config.dtype, config.head),
            stop_text=StopText.build(tokenizer, stop_texts(tokenizer, stop)),
            top_p=chosen.top_p if temperature else 1.0,
        )

    answering = answering_of(config, policy)

    def answer(requests: Sequence[Request], items: Sequence[Item], temperature: float) -> list[str]:
        tokens = partial(sample, temperature=temperature)
        return [each.text for each in answering(tokens, requests, items, chosen.max_tokens)]

    try:
        return evaluate(
            task=chosen.task,
            items=chosen.items,
            prompts=[encode_prompt(tokenizer, item.prompt, chosen.prompt) for item in chosen.items],
            k=chosen.k,
            temperature=chosen.temperature,
            seed=config.seed,
            answer=answer,
        )
    finally:
        answering.close()


def _origin(what: str) -> tuple[dict[str, object], Path | None]:
    """Give the run fields that `what` comes with, and its newest checkpoint."""
    if what.startswith("builtin:") or (Path(what).expanduser() / "config.json").is_file():
        return {"model": what, "rollout": {"max_tokens": _LONGEST}}, None
    try:
        target = resolve(what)
    except GridError:
        if what.count("/") == 1 and not what.startswith((".", "/", "~")):
            return {"model": what, "rollout": {"max_tokens": _LONGEST}}, None
        raise
    found = trained(what, asked="one policy is evaluated", target=target)
    return found.config, found.checkpoint


def _config(what: str, data: dict[str, object], asked: Asked) -> tuple[RunConfig, EvalSetConfig]:
    entry = {
        "name": "eval",
        "task": asked.task,
        "items": asked.items,
        "k": asked.k,
        "temperature": asked.temperature,
        "max_tokens": asked.max_tokens,
        "suffix": asked.suffix,
        **({} if asked.top_p is None else {"top_p": asked.top_p}),
    }
    given = data.get("prompt")
    prompt: dict[str, object] = dict(given) if isinstance(given, dict) else {}
    prompt |= {} if asked.system is None else {"system": asked.system}
    if asked.plain:
        prompt |= {"template": "none", "template_args": {}}
    if asked.task is None and "task" not in data:
        raise ConfigError(
            f"{what} is a model, which has no task of its own",
            where="--task",
            fix="name one: --task math",
        )
    data = {**data, "prompt": prompt, "evals": [entry]}
    data |= {} if asked.seed is None else {"seed": asked.seed}
    try:
        config = RunConfig.model_validate(data)
    except ValidationError as error:
        raise explain(error, Document.constant(data, "alpkit eval"), model=RunConfig) from error
    return config, config.evals[0]
