"""The transformers engine: batched sampling with a KV cache and exact log-probs of what was sampled.

`generate` works on any model (evaluation uses it on the trainer's weights); `HfSampler` owns a copy
whose weights may be rounded (`precision`). One uniform per token from the request's own seed,
turned into a token by inverting the CDF: a draw does not depend on the batch it was made in.
"""

import copy
import logging
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from alpkit.config.run import HfRolloutConfig
from alpkit.errors import RolloutError
from alpkit.policy.autocast import FLOAT32, Precision
from alpkit.policy.logprobs import backbone_of, positions_of, response_logprobs, token_logits
from alpkit.policy.memory import generated_rows
from alpkit.rollout import Likeliest, Request, Response, collate
from alpkit.rollout.precision import check_rounding, matrices, round_weights, rounded
from alpkit.rollout.stopping import StopText

logger = logging.getLogger("alpkit.rollout")


def sample_token(
    logits: Float[Tensor, "batch vocab"], uniform: Float[Tensor, " batch"]
) -> Int[Tensor, " batch"]:
    """Pick the token at `uniform` of each row's CDF, in float64; never one of probability 0."""
    cdf = torch.softmax(logits.double(), dim=-1).cumsum(dim=-1)
    point = uniform[:, None].to(cdf) * cdf[:, -1:]
    return torch.searchsorted(cdf, point, right=True)[:, 0].clamp(max=logits.shape[1] - 1)


class _Batch:
    """Rows that are still being generated, compacted when half of them have ended."""

    def __init__(
        self,
        model: PreTrainedModel,
        requests: Sequence[Request],
        pad_id: int,
        max_tokens: int,
        *,
        head_float32: bool,
    ) -> None:
        device = next(model.parameters()).device
        width = max(len(request.prompt_ids) for request in requests)
        ids = torch.full((len(requests), width), pad_id)
        mask = torch.zeros(len(requests), width, dtype=torch.bool)
        for row, request in enumerate(requests):
            ids[row, width - len(request.prompt_ids) :] = torch.tensor(request.prompt_ids)
            mask[row, width - len(request.prompt_ids) :] = True
        draws = np.stack(
            [np.random.default_rng(request.seed).random(max_tokens) for request in requests]
        )
        self.model, self.cache = model, DynamicCache(config=model.config)
        self.head_float32 = head_float32
        self.ids, self.mask = ids.to(device), mask.to(device)
        self.uniform = torch.from_numpy(draws).to(device)
        self.rows = torch.arange(len(requests), device=device)
        self.limits = torch.tensor(
            [request.limit(max_tokens) for request in requests], device=device
        )

    def logits(self) -> Float[Tensor, "batch vocab"]:
        positions = positions_of(self.mask)[:, -self.ids.shape[1] :]
        hidden = backbone_of(self.model)(
            input_ids=self.ids,
            attention_mask=self.mask,
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
        ).last_hidden_state
        logits = token_logits(self.model, hidden[:, -1], head_float32=self.head_float32).float()
        return logits

    def append(self, token: Int[Tensor, " batch"], alive: Bool[Tensor, " batch"]) -> None:
        self.ids = token[:, None]
        self.mask = torch.cat([self.mask, torch.ones_like(self.mask[:, :1])], dim=1)
        keep = alive.nonzero()[:, 0]
        if 2 * len(keep) <= len(alive):
            self.cache.batch_select_indices(keep)
            self.ids, self.mask = self.ids[keep], self.mask[keep]
            self.uniform, self.rows = self.uniform[keep], self.rows[keep]


@torch.no_grad()
def generate(
    model: PreTrainedModel,
    requests: Sequence[Request],
    *,
    max_tokens: int,
    temperature: float,
    stop_ids: Sequence[int],
    pad_id: int,
    batch: int | None = None,
    precision: Precision = FLOAT32,
    stop_text: StopText | None = None,
    top_p: float = 1.0,
    top_logprobs: int = 0,
) -> list[Response]:
    """Sample one response per request; temperature 0 takes the likeliest token, log-probs at 1.

    `precision` is that of the forward: the trainer's own where its policy is evaluated. The end token
    belongs to the response; its log-prob is the model's like any other's. `batch` sequences are sampled
    at once (default: what memory has room for). `top_p` below 1 samples from the nucleus (evaluation
    only: the log-probs stay those of the whole distribution). `top_logprobs`: likeliest tokens of every
    position to return with their log-probs, at most the vocabulary.
    """
    responses: list[Response] = []
    ends = _Ends(tuple(stop_ids), stop_text)
    device = next(model.parameters()).device
    if batch is None:
        longest = max((len(request.prompt_ids) for request in requests), default=0) + max_tokens
        batch = generated_rows(model, longest, device)
    for start in range(0, len(requests), batch):
        part = requests[start : start + batch]
        longest_part = max(request.limit(max_tokens) for request in part)
        state = _Batch(model, part, pad_id, longest_part, head_float32=precision.head_float32)
        with precision.autocast(device):
            responses += _generate(
                state, longest_part, temperature, ends, pad_id, top_p, top_logprobs
            )
    return responses


class _Ends(NamedTuple):
    """Find the end of a response: an end token, or a stop string that its last token completes."""

    ids: tuple[int, ...]
    text: StopText | None

    def reached(self, tokens: Int[Tensor, "rows len"]) -> Bool[Tensor, " rows"]:
        last = tokens[:, -1]
        found = torch.isin(last, torch.tensor(self.ids, device=last.device))
        if self.text is not None:
            hits = [self.text.hit(row) for row in tokens[:, -self.text.window :].tolist()]
            found |= torch.tensor(hits, dtype=torch.bool, device=last.device)
        return found


def _nucleus(logits: Float[Tensor, "batch vocab"], top_p: float) -> Float[Tensor, "batch vocab"]:
    """Exclude all but the likeliest tokens whose probabilities first reach `top_p`."""
    if top_p >= 1:
        return logits
    ordered, index = logits.softmax(dim=-1).sort(dim=-1, descending=True)
    beyond = ordered.cumsum(dim=-1) - ordered >= top_p
    return logits.masked_fill(torch.zeros_like(beyond).scatter(-1, index, beyond), -torch.inf)


def _generate(
    state: _Batch,
    max_tokens: int,
    temperature: float,
    ends: _Ends,
    pad_id: int,
    top_p: float,
    top_logprobs: int,
) -> list[Response]:
    shape = (len(state.rows), max_tokens)
    tokens = torch.full(shape, pad_id, device=state.ids.device)
    logps = torch.zeros(shape, device=state.ids.device)
    length = state.limits.clone()
    stopped = torch.zeros(shape[:1], dtype=torch.bool, device=state.ids.device)
    likeliest = _LikeliestTokens(shape, top_logprobs, state.ids.device)
    for t in range(max_tokens):
        logits = state.logits() / (temperature or 1.0)
        if temperature == 0:
            token = logits.argmax(dim=-1)
        else:
            token = sample_token(_nucleus(logits, top_p), state.uniform[:, t])
        open_rows = ~stopped[state.rows] & (state.limits[state.rows] > t)
        rows = state.rows[open_rows]
        tokens[rows, t] = token[open_rows]
        every = logits.log_softmax(dim=-1)
        picked = every.gather(-1, token[:, None])[:, 0]
        logps[rows, t] = picked[open_rows]
        likeliest.keep(rows, t, every[open_rows])
        ended = rows[ends.reached(tokens[rows, : t + 1])]
        stopped[ended] = True
        length[ended] = t + 1
        alive = ~stopped[state.rows] & (state.limits[state.rows] > t + 1)
        if not alive.any():
            break
        state.append(token, alive)
    lists = zip(tokens.tolist(), logps.tolist(), length.tolist(), stopped.tolist(), strict=True)
    return [
        Response(
            tuple(ids[:n]), tuple(logp[:n]), "stop" if done else "length", top=likeliest.of(row, n)
        )
        for row, (ids, logp, n, done) in enumerate(lists)
    ]


class _LikeliestTokens:
    """Collects the `top` likeliest tokens of every position; nothing where `top` is 0."""

    def __init__(self, shape: tuple[int, int], top: int, device: torch.device) -> None:
        self._shape, self._top, self._device = shape, top, device
        self._kept: list[Likeliest] | None = None
        self._ids = self._logp = torch.empty(0)

    def keep(self, rows: Int[Tensor, " rows"], t: int, logp: Float[Tensor, "rows vocab"]) -> None:
        if self._top == 0:
            return
        best = logp.topk(min(self._top, logp.shape[1]), dim=-1)
        if not len(self._ids):
            shape = (*self._shape, best.indices.shape[1])
            self._ids = torch.zeros(shape, dtype=torch.int32, device=self._device)
            self._logp = torch.zeros(shape, device=self._device)
        self._ids[rows, t] = best.indices.int()
        self._logp[rows, t] = best.values

    def of(self, row: int, tokens: int) -> Likeliest | None:
        """Give one response's, on the host; None where none were asked for."""
        if self._top == 0:
            return None
        if self._kept is None:
            ids, logp = self._ids.cpu().numpy(), self._logp.cpu().numpy()
            self._kept = [Likeliest(*row) for row in zip(ids, logp, strict=True)]
        return self._kept[row].until(tokens)


class HfSampler:
    """A transformers engine with its own, possibly rounded, copy of the weights."""

    def __init__(
        self,
        model: PreTrainedModel,
        config: HfRolloutConfig,
        *,
        stop_ids: Sequence[int],
        pad_id: int,
        batch: int | None = None,
        stop_text: StopText | None = None,
    ) -> None:
        self.stop_text = stop_text
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.config, self.stop_ids, self.pad_id = config, tuple(stop_ids), pad_id
        self.batch = batch
        self._share = check_rounding(self.model, config.weights)
        round_weights(self.model, config.weights)
        if config.weights != "float32":
            logger.info(
                "sampler: %s, %.1f %% of the block weights rounded",
                config.weights,
                100 * self._share,
            )

    def generate(
        self,
        requests: Sequence[Request],
        *,
        max_tokens: int,
        temperature: float,
        top_p: float = 1.0,
    ) -> list[Response]:
        return generate(
            self.model,
            requests,
            max_tokens=max_tokens,
            temperature=temperature,
            stop_ids=self.stop_ids,
            pad_id=self.pad_id,
            batch=self.batch,
            stop_text=self.stop_text,
            top_p=top_p,
            # Evaluation samples at other temperatures or greedily, and uses none.
            top_logprobs=self.config.top_logprobs if temperature == self.config.temperature else 0,
        )

    @torch.no_grad()
    def score(
        self, sequences: Sequence[tuple[tuple[int, ...], tuple[int, ...]]]
    ) -> list[list[float]]:
        return score(self.model, sequences, pad_id=self.pad_id, temperature=self.config.temperature)

    @torch.no_grad()
    def sync(self, parameters: Iterable[tuple[str, Tensor]]) -> None:
        own = dict(self.model.named_parameters())
        seen = set()
        for name, value in parameters:
            if name not in own:
                raise RolloutError(
                    f"the sampler has no parameter {name}", fix="sync the model it was copied from"
                )
            own[name].copy_(value)
            seen.add(name)
        if missing := sorted(own.keys() - seen):
            raise RolloutError(
                f"weight sync left {len(missing)} parameters stale, first {missing[0]}",
                why="a stale sampler looks exactly like the mismatch under study",
                fix="push every named parameter",
            )
        round_weights(self.model, self.config.weights)

    def stale(self, parameters: Iterable[tuple[str, Tensor]]) -> list[str]:
        """Compare every held weight with what a push of `parameters` should have left, to the bit."""
        own, known = dict(self.model.named_parameters()), matrices(self.model)
        rounds = {id(matrix.weight): matrix for matrix in known}
        missing = []
        for name, value in parameters:
            held = own[name]
            matrix = rounds.get(id(held))
            pushed = value.detach().to(held)
            wanted = pushed if matrix is None else rounded(matrix, pushed, self.config.weights)
            if not torch.equal(held, wanted):
                missing.append(name)
        return missing

    def facts(self) -> dict[str, float]:
        """Give the share of the block weights that is rounded; nothing for float32, which rounds none."""
        return {} if self.config.weights == "float32" else {"rollout/rounded_share": self._share}

    def close(self) -> None:
        """Release nothing: the copy goes with the object."""


@torch.no_grad()
def score(
    model: PreTrainedModel,
    sequences: Sequence[tuple[tuple[int, ...], tuple[int, ...]]],
    *,
    pad_id: int,
    temperature: float,
    precision: Precision = FLOAT32,
    batch: int | None = None,
) -> list[list[float]]:
    """Log-probs (nats) of given (prompt, response) ids under `model`, one list per sequence.

    `batch` sequences go through the model at once (default: all).
    """
    device = next(model.parameters()).device
    if batch is not None and len(sequences) > batch:
        parts = [sequences[start : start + batch] for start in range(0, len(sequences), batch)]
        return [
            row
            for part in parts
            for row in score(
                model, part, pad_id=pad_id, temperature=temperature, precision=precision
            )
        ]
    rollout = collate(
        [Request(prompt, 0) for prompt, _ in sequences],
        [Response(ids, (0.0,) * len(ids), "stop") for _, ids in sequences],
        prompt=range(len(sequences)),
        pad_id=pad_id,
        policy_version=0,
    ).to(device)
    with precision.autocast(device):
        logp = response_logprobs(
            model,
            rollout.tokens,
            rollout.attention,
            rollout.response,
            temperature=temperature,
            head_float32=precision.head_float32,
        ).logp
    return [row[mask].tolist() for row, mask in zip(logp, rollout.response, strict=True)]
