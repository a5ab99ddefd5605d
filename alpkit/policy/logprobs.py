"""Score given tokens under a policy: log-prob and entropy, with the LM head on response tokens only.

The backbone runs on the real tokens of all rows, packed one behind the other (`attention`), or on whole
padded rows. Prompt rows are dropped before the head, which runs in chunks that the backward pass forms
again, so that its memory is O(chunk x vocab). What a model does to its logits after the head
(a scale, a soft cap) is done here too. Not here: noise (`perturbation`), which only needs to be told
which tokens the head sees and which at the logits enters before scale and cap, and sampling.
"""

from typing import Final, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from alpkit.errors import ConfigError
from alpkit.policy.attention import Packing, Segments, packed_attention
from alpkit.policy.head import HeadLogprobs, plain_head, recomputed_logprobs
from alpkit.policy.memory import head_chunk
from alpkit.policy.perturbation.gate import HeadTokens, bound, head_tokens

# Log of a mass that is none: where all of the vocabulary is a candidate. No gradient goes through it.
_NO_MASS: Final = -80.0
# Config fields by which models scale their logits. hyperclovax multiplies by what granite divides by.
_MULTIPLIERS: Final = ("logit_scale", "lm_head_multiplier", "output_multiplier")
_DIVISOR: Final = "logits_scaling"
_MULTIPLIES_BY_DIVISOR: Final = ("hyperclovax",)


class LogitTransform(NamedTuple):
    """A model's transform after its LM head: logits * scale, then cap * tanh(logits / cap) where there is a cap."""

    scale: float
    cap: float | None

    def __call__(self, logits: Float[Tensor, "*tok vocab"]) -> Float[Tensor, "*tok vocab"]:
        if self.scale != 1:
            logits = logits * self.scale
        return logits if self.cap is None else self.cap * torch.tanh(logits / self.cap)


class TokenLogprobs(NamedTuple):
    """`logp` and `entropy` (nats), aligned with tokens, 0 outside responses; `logp` has a gradient.

    Of the candidates, where some were given: `top`, their log-probs, and `rest`, the log of what the others
    have together; both with gradient.
    """

    logp: Float[Tensor, "batch len"]
    entropy: Float[Tensor, "batch len"]
    top: Float[Tensor, "batch len k"] | None = None
    rest: Float[Tensor, "batch len"] | None = None


def positions_of(attention: Bool[Tensor, "batch len"]) -> Int[Tensor, "batch len"]:
    """Make position ids that count real tokens only, so that padding on the left changes nothing."""
    return (attention.long().cumsum(dim=1) - 1).clamp(min=0)


def backbone_of(model: PreTrainedModel) -> nn.Module:
    """Find the decoder stack below the LM head."""
    backbone: nn.Module = getattr(model, model.base_model_prefix, model.base_model)
    return backbone


def logit_transform(model: PreTrainedModel) -> LogitTransform:
    """Read from the config how the model transforms its logits (`verify_head` proves it)."""
    config, scale = model.config.get_text_config(), 1.0
    for name in _MULTIPLIERS:
        scale *= _number(config, name)
    divisor = _number(config, _DIVISOR)
    scale = scale * divisor if config.model_type in _MULTIPLIES_BY_DIVISOR else scale / divisor
    cap = getattr(config, "final_logit_softcapping", None)
    return LogitTransform(scale, None if cap is None else float(cap))


def token_logits(
    model: PreTrainedModel, hidden: Float[Tensor, "*tok hidden"], *, head_float32: bool = False
) -> Float[Tensor, "*tok vocab"]:
    """Compute the logits of `hidden`, the backbone's last state: LM head, then the model's transform in float32.

    `head_float32` takes the LM head out of autocast. Float64 stays float64.
    """
    head = model.get_output_embeddings()
    if head_float32:
        with torch.autocast(hidden.device.type, enabled=False):
            logits = head(hidden.to(head.weight.dtype))
    else:
        logits = head(hidden)
    return logit_transform(model)(logits.to(torch.promote_types(logits.dtype, torch.float32)))


def response_logprobs(
    model: PreTrainedModel,
    tokens: Int[Tensor, "batch len"],
    attention: Bool[Tensor, "batch len"],
    response: Bool[Tensor, "batch len"],
    *,
    temperature: float = 1.0,
    chunk: int | None = None,
    head_float32: bool = False,
    packing: Packing | None = None,
    candidates: Int[Tensor, "batch len k"] | None = None,
    entropy_gradient: bool = False,
) -> TokenLogprobs:
    """Compute the log-prob of every response token given the tokens before it, and the entropy there.

    Softmax of logits / temperature, formed in float32 (float64 stays float64). Tokens outside
    `response` cost no LM-head work. The first column of `tokens` can be no response token.
    `head_float32`: the LM head is not part of an autocast around this call. `packing`: without padding,
    for models that `can_pack`; noise then needs a sample id per token (`packed_samples`).
    `entropy_gradient`: the entropy has a gradient too, through the same chunks; else it is detached.
    `candidates`: token ids whose log-probs at each response token's place are wanted besides, distinct.
    """
    predicts = torch.nn.functional.pad(response[:, 1:], (0, 1))
    targets = tokens[:, 1:][response[:, 1:]]
    if packing is None:
        hidden = _padded(model, tokens, attention)
        rows, where = hidden[predicts], predicts.nonzero()
    else:
        hidden = _packed(model, tokens, attention, packing)
        place = predicts[attention].nonzero()
        rows, where = hidden[place[:, 0]], torch.nn.functional.pad(place, (1, 0))  # row 0
    chunk = chunk or head_chunk(model, tokens.device)
    settings = (temperature, head_float32, entropy_gradient)
    if candidates is not None:
        ids = candidates[:, 1:][response[:, 1:]].long()
        parts = _score_candidates(model, rows, targets, ids, where, chunk, settings)
        logp, entropy, rest, *top = (_scatter(part, response) for part in parts.unbind(dim=-1))
        entropy = entropy if entropy_gradient else entropy.detach()
        return TokenLogprobs(logp, entropy, torch.stack(top, dim=-1), rest)
    scored = _score(model, rows, targets, where, temperature, chunk, head_float32, entropy_gradient)
    return TokenLogprobs(_scatter(scored.logp, response), _scatter(scored.entropy, response))


def _score(
    model: PreTrainedModel,
    rows: Float[Tensor, "tok hidden"],
    targets: Int[Tensor, " tok"],
    where: Int[Tensor, "tok 2"],
    temperature: float,
    chunk: int,
    head_float32: bool,
    entropy_gradient: bool,
) -> HeadLogprobs:
    """The head's part: in place where its logits are a plain product; else chunk by chunk, again in the backward."""
    transform, weight = logit_transform(model), plain_head(model)
    exact = head_float32 or not torch.is_autocast_enabled(rows.device.type)
    if weight is not None and transform.cap is None and exact:
        with torch.autocast(rows.device.type, enabled=False):
            return recomputed_logprobs(
                rows.to(weight.dtype),
                weight,
                targets,
                scale=transform.scale / temperature,
                chunk=chunk,
                entropy_gradient=entropy_gradient,
            )
    if rows.shape[0] <= chunk:
        at = HeadTokens(*where.unbind(1))
        settings = (temperature, head_float32, entropy_gradient)
        return HeadLogprobs(*_head(model, rows, targets, at, *settings))
    logps, entropies = [], []
    for piece, target, at_piece in zip(
        rows.split(chunk), targets.split(chunk), where.split(chunk), strict=True
    ):
        at = HeadTokens(*at_piece.unbind(1))
        inputs = (model, piece, target, at, temperature, head_float32, entropy_gradient)
        logp, entropy = checkpoint(bound(_head), *inputs, use_reentrant=False)
        logps.append(logp)
        entropies.append(entropy)
    return HeadLogprobs(torch.cat(logps), torch.cat(entropies))


def _score_candidates(
    model: PreTrainedModel,
    rows: Float[Tensor, "tok hidden"],
    targets: Int[Tensor, " tok"],
    candidates: Int[Tensor, "tok k"],
    where: Int[Tensor, "tok 2"],
    chunk: int,
    settings: tuple[float, bool, bool],
) -> Float[Tensor, "tok columns"]:
    """Score targets and candidates chunk by chunk, and again in the backward: log-prob, entropy, log of the
    rest's mass, then the candidates' log-probs. `settings` as of `_candidate_head`.
    """
    parts = [
        checkpoint(
            bound(_candidate_head),
            *(model, piece, target, ids, HeadTokens(*at.unbind(1)), *settings),
            use_reentrant=False,
        )
        for piece, target, ids, at in zip(
            *(values.split(chunk) for values in (rows, targets, candidates, where)), strict=True
        )
    ]
    return torch.cat(parts)


def _candidate_head(
    model: PreTrainedModel,
    hidden: Float[Tensor, "tok hidden"],
    target: Int[Tensor, " tok"],
    candidates: Int[Tensor, "tok k"],
    at: HeadTokens,
    temperature: float,
    head_float32: bool,
    entropy_gradient: bool,
) -> Float[Tensor, "tok columns"]:
    with head_tokens(at):
        logits = token_logits(model, hidden, head_float32=head_float32) / temperature
    logp = logits.log_softmax(dim=-1)
    with torch.set_grad_enabled(entropy_gradient and torch.is_grad_enabled()):
        entropy = -(logp.exp() * logp).sum(dim=-1)
    # Of its own, for 1 less the candidates' mass has no digits left where they hold nearly all.
    others = logp.scatter(-1, candidates, torch.finfo(logp.dtype).min)
    rest = others.logsumexp(dim=-1).clamp(min=_NO_MASS)
    columns = [logp.gather(-1, target[:, None])[:, 0], entropy, rest]
    return torch.cat([torch.stack(columns, dim=-1), logp.gather(-1, candidates)], dim=-1)


def packed_samples(
    sample: Int[Tensor, " batch"], attention: Bool[Tensor, "batch len"]
) -> Int[Tensor, "1 total"]:
    """Sample id of every token of the packed row that `attention`'s real tokens make."""
    return sample.repeat_interleave(attention.sum(dim=1).to(sample.device))[None]


def _padded(
    model: PreTrainedModel,
    tokens: Int[Tensor, "batch len"],
    attention: Bool[Tensor, "batch len"],
) -> Float[Tensor, "batch len hidden"]:
    """Last hidden states of padded rows."""
    hidden: Tensor = backbone_of(model)(
        input_ids=tokens,
        attention_mask=attention,
        position_ids=positions_of(attention),
        use_cache=False,
    ).last_hidden_state
    return hidden


def _packed(
    model: PreTrainedModel,
    tokens: Int[Tensor, "batch len"],
    attention: Bool[Tensor, "batch len"],
    packing: Packing,
) -> Float[Tensor, "total hidden"]:
    """Last hidden states of the real tokens, row behind row."""
    lengths = tuple(attention.sum(dim=1).tolist())
    with packed_attention(model, Segments(lengths, tokens.device, packing.kernel)):
        hidden: Tensor = backbone_of(model)(
            input_ids=tokens[attention][None],
            position_ids=positions_of(attention)[attention][None],
            use_cache=False,
        ).last_hidden_state
    return hidden[0]


def _head(
    model: PreTrainedModel,
    hidden: Float[Tensor, "tok hidden"],
    target: Int[Tensor, " tok"],
    at: HeadTokens,
    temperature: float,
    head_float32: bool,
    entropy_gradient: bool,
) -> tuple[Float[Tensor, " tok"], Float[Tensor, " tok"]]:
    with head_tokens(at):
        logits = token_logits(model, hidden, head_float32=head_float32)
    logits = logits / temperature
    normalizer = logits.logsumexp(dim=-1)
    logp = logits.gather(-1, target[:, None])[:, 0] - normalizer
    with torch.set_grad_enabled(entropy_gradient and torch.is_grad_enabled()):
        entropy = normalizer - (torch.softmax(logits, dim=-1) * logits).sum(dim=-1)
    return logp, entropy


def _number(config: object, name: str) -> float:
    """Read a field that scales logits; absent or None: 1."""
    value = getattr(config, name, None)
    return float(value) if isinstance(value, int | float) else 1.0


def _scatter(
    values: Float[Tensor, " tok"], response: Bool[Tensor, "batch len"]
) -> Float[Tensor, "batch len"]:
    return values.new_zeros(response.shape).masked_scatter(response, values)


@torch.no_grad()
def verify_head(model: PreTrainedModel, tolerance: float = 1e-4) -> None:
    """Refuse a model whose own forward does more to the logits than backbone and LM head.

    Compares with `model(...)` on a few tokens; raises `ConfigError` where they differ by more than
    `tolerance` nats (a logit transform or a further layer that this module does not know).
    """
    device = next(model.parameters()).device
    tokens = torch.arange(8, device=device)[None] % model.config.get_text_config().vocab_size
    attention = torch.ones_like(tokens, dtype=torch.bool)
    response = attention.clone()
    response[:, 0] = False
    ours = response_logprobs(model, tokens, attention, response).logp[:, 1:]
    logits = model(input_ids=tokens, attention_mask=attention).logits.float()
    theirs = logits[:, :-1].log_softmax(-1).gather(-1, tokens[:, 1:, None])[..., 0]
    gap = (ours - theirs).abs().max().item()
    if gap > tolerance:
        raise ConfigError(
            f"{type(model).__name__} does not end in backbone + LM head: log-probs differ by {gap:.2g} nats",
            why="every ratio would be formed with a distribution that nobody samples from",
            fix="use another model, or teach alpkit/policy/logprobs.py its logit transform",
        )
