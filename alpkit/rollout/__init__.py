"""The behaviour policy mu: the requests that a sampler takes and the responses it returns.

A sampler owns its own weights. It returns the tokens that it sampled and their log-probs under the
distribution that it sampled from, and nothing is re-tokenised on the way to the trainer.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, Protocol

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

FinishReason = Literal["stop", "length"]


class Request(NamedTuple):
    """One response to sample: prompt ids, and the seed of its own stream of draws."""

    prompt_ids: tuple[int, ...]
    seed: int
    max_tokens: int | None = None
    """Longest response, tokens, where that is less than `generate` is told."""

    def limit(self, max_tokens: int) -> int:
        """Give the longest response, tokens, where `generate` is told `max_tokens`."""
        return max_tokens if self.max_tokens is None else min(self.max_tokens, max_tokens)


class Likeliest(NamedTuple):
    """The k likeliest tokens at every position of a response, with their log-probs (nats) under the
    distribution that was sampled from. Whether the sampled token is among them is left to chance.
    """

    ids: Int[np.ndarray, "tok k"]
    logp: Float[np.ndarray, "tok k"]

    def until(self, end: int) -> "Likeliest":
        """Keep the first `end` positions."""
        return Likeliest(self.ids[:end], self.logp[:end])


class Response(NamedTuple):
    """One sampled response; `logp` in nats, one per token, the end token included where it was sampled.

    `top`: the likeliest tokens, where they were asked for.
    In a response of several turns, tokens that `sampled` does not mark were put in by an environment: they have a
    filler for a log-prob, and no loss, ratio or statistic may look at it. `turn` counts the model's turns from 0.
    """

    token_ids: tuple[int, ...]
    logp: tuple[float, ...]
    finish: FinishReason
    sampled: tuple[bool, ...] | None = None
    """One mark per token; None: the model sampled all of them."""
    turn: tuple[int, ...] | None = None
    """Turn of each token, never falling; None: all are of one turn."""

    top: Likeliest | None = None

    @property
    def turns(self) -> int:
        """Turns that the model took."""
        return 1 if self.turn is None else self.turn[-1] + 1


class Sampler(Protocol):
    """An engine with its own weights.

    `temperature` 0 means greedy (evaluation only; its log-probs are those of temperature 1). `top_p`
    below 1 is for evaluation only: what is trained on is sampled from the whole distribution.
    `sync` replaces the weights by `(name, tensor)` pairs of the trainer's model, names as in
    `model.named_parameters()`, and returns when the next `generate` will use them.
    `score` returns log-probs (nats) of given responses under the current weights at the sampling
    temperature: what the weight-sync probe compares with the trainer.
    `stale` names those of the given parameters whose weights are not in the engine as a push leaves
    them (rounded, cast); None where the engine cannot show its weights.
    `facts` are numbers of the engine that never change, by metric key: logged at step 0.
    """

    def generate(
        self,
        requests: Sequence[Request],
        *,
        max_tokens: int,
        temperature: float,
        top_p: float = 1.0,
    ) -> list[Response]: ...

    def score(
        self, sequences: Sequence[tuple[tuple[int, ...], tuple[int, ...]]]
    ) -> list[list[float]]: ...

    def sync(self, parameters: Iterable[tuple[str, Tensor]]) -> None: ...

    def stale(self, parameters: Iterable[tuple[str, Tensor]]) -> list[str] | None: ...

    def facts(self) -> dict[str, float]: ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class Rollout:
    """A step's sampled batch, padded: prompts on the left, responses on the right.

    `tokens` are all ids, `attention` marks the real ones, `response` marks the sampled ones and is the
    loss mask; `logp_rollout` (nats, float32) is aligned with `tokens` and means nothing outside `response`.
    `turn` is the turn of each response token, from 0, never falling along a row. `top_ids` and `top_logp` are the
    sampler's likeliest tokens at every position, where they were asked for.
    """

    tokens: Int[Tensor, "batch len"]
    attention: Bool[Tensor, "batch len"]
    response: Bool[Tensor, "batch len"]
    logp_rollout: Float[Tensor, "batch len"]
    turn: Int[Tensor, "batch len"]
    prompt: Int[Tensor, " batch"]
    policy_version: int
    top_ids: Int[Tensor, "batch len k"] | None = None
    top_logp: Float[Tensor, "batch len k"] | None = None

    def __len__(self) -> int:
        return self.tokens.shape[0]

    def to(self, device: torch.device) -> "Rollout":
        """Copy the batch with its tensors on `device`."""
        return replace(
            self,
            tokens=self.tokens.to(device),
            attention=self.attention.to(device),
            response=self.response.to(device),
            logp_rollout=self.logp_rollout.to(device),
            turn=self.turn.to(device),
            prompt=self.prompt.to(device),
            top_ids=None if self.top_ids is None else self.top_ids.to(device),
            top_logp=None if self.top_logp is None else self.top_logp.to(device),
        )

    def rows(self, index: Int[Tensor, " rows"]) -> tuple["Rollout", slice]:
        """The given rows in their order, without columns that are padding in all of them, and the kept columns."""
        index = index.to(self.tokens.device)
        used = self.attention[index].any(dim=0).nonzero()
        columns = slice(int(used[0]), int(used[-1]) + 1)
        cut = replace(
            self,
            tokens=self.tokens[index][:, columns],
            attention=self.attention[index][:, columns],
            response=self.response[index][:, columns],
            logp_rollout=self.logp_rollout[index][:, columns],
            turn=self.turn[index][:, columns],
            prompt=self.prompt[index],
            top_ids=None if self.top_ids is None else self.top_ids[index][:, columns],
            top_logp=None if self.top_logp is None else self.top_logp[index][:, columns],
        )
        return cut, columns


def collate(
    requests: Sequence[Request],
    responses: Sequence[Response],
    *,
    prompt: Sequence[int],
    pad_id: int,
    policy_version: int,
) -> Rollout:
    """Pad requests and responses to one `Rollout`; `prompt[i]` is the prompt index of response i."""
    left = max(len(request.prompt_ids) for request in requests)
    right = max(len(response.token_ids) for response in responses)
    shape = (len(requests), left + right)
    tokens = torch.full(shape, pad_id, dtype=torch.long)
    attention = torch.zeros(shape, dtype=torch.bool)
    response_mask = torch.zeros(shape, dtype=torch.bool)
    logp = torch.zeros(shape, dtype=torch.float32)
    turn = torch.zeros(shape, dtype=torch.long)
    for row, (request, response) in enumerate(zip(requests, responses, strict=True)):
        start, stop = left - len(request.prompt_ids), left + len(response.token_ids)
        tokens[row, start:stop] = torch.tensor(request.prompt_ids + response.token_ids)
        attention[row, start:stop] = True
        response_mask[row, left:stop] = (
            True if response.sampled is None else torch.tensor(response.sampled)
        )
        if response.turn is not None:
            turn[row, left:stop] = torch.tensor(response.turn)
        logp[row, left:stop] = torch.tensor(response.logp, dtype=torch.float32)
    return Rollout(
        tokens=tokens,
        attention=attention,
        response=response_mask,
        logp_rollout=logp,
        turn=turn,
        prompt=torch.tensor(prompt),
        policy_version=policy_version,
        **_likeliest(responses, left, shape),
    )


def _likeliest(
    responses: Sequence[Response], left: int, shape: tuple[int, int]
) -> dict[str, Tensor]:
    """Pad the likeliest tokens of all responses; nothing where they were not asked for."""
    tops = [response.top for response in responses]
    given = [top for top in tops if top is not None]
    if len(given) < len(tops) or not given:
        return {}
    k = given[0].ids.shape[1]
    ids = torch.zeros(*shape, k, dtype=torch.int32)
    logp = torch.zeros(*shape, k, dtype=torch.float32)
    for row, top in enumerate(given):
        stop = left + len(top.ids)
        ids[row, left:stop] = torch.from_numpy(top.ids)
        logp[row, left:stop] = torch.from_numpy(top.logp)
    return {"top_ids": ids, "top_logp": logp}
