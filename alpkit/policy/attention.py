"""Attention for rows packed one behind the other, without padding and without a mask of total x total.

Inside `packed_attention` the model's layers attend within each sample only: on CUDA in half precision by
torch's varlen kernel, elsewhere by causal sdpa over samples of like length. Nothing else of the model
knows of it; a layer that a checkpoint runs again must be wrapped by `keep_packing`.

    with packed_attention(model, Segments(lengths, device)):
        hidden = backbone(input_ids=flat[None], position_ids=places[None]).last_hidden_state

`can_pack` finds out, on the model itself, whether all of its layers go through here.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any, Final, Literal, NamedTuple, ParamSpec, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel

from alpkit.config.hardware import HardwareConfig

logger = logging.getLogger("alpkit.policy")

Kernel = Literal["auto", "sdpa", "varlen"]
_P = ParamSpec("_P")
_T = TypeVar("_T")

_NAME: Final = "alpkit_packed"
_LAYER_TYPES: Final = {"full_attention", "sliding_attention"}
_ALIKE: Final = 32
"""Lengths that differ by no more tokens go through one kernel call, padded; long ones by a quarter."""


class Packing(NamedTuple):
    """A way to pack forwards; None in its place: they are padded."""

    kernel: Kernel = "auto"


class Layout(NamedTuple):
    """`token` in every slot (padding: its sample's first), `slot` of every token, slots that are `padding`."""

    token: Int[Tensor, " slots"]
    slot: Int[Tensor, " total"]
    padding: Int[Tensor, " padded"]


@dataclass(frozen=True)
class Segments:
    """Lengths of the samples of a packed row, in their order, and how to lay them out for a kernel.

    Groups of samples of like length, longest first, each a grid [samples, longest] padded on the right;
    a *slot* is a place in all grids one behind the other.
    """

    lengths: tuple[int, ...]
    device: torch.device
    kernel: Kernel = "auto"

    @cached_property
    def starts(self) -> Int[Tensor, " samples_plus_1"]:
        """Offsets at which the samples begin, and the end, as varlen kernels ask for them."""
        return torch.tensor([0, *accumulate(self.lengths)], dtype=torch.int32, device=self.device)

    @cached_property
    def groups(self) -> list[list[int]]:
        """Samples by group."""
        parts: list[list[int]] = []
        for sample in sorted(range(len(self.lengths)), key=lambda i: -self.lengths[i]):
            longest = self.lengths[parts[-1][0]] if parts else 0
            if parts and longest - self.lengths[sample] <= max(_ALIKE, longest // 4):
                parts[-1].append(sample)
            else:
                parts.append([sample])
        return parts

    @cached_property
    def grids(self) -> list[tuple[int, int]]:
        """Samples and longest of every group."""
        return [(len(part), self.lengths[part[0]]) for part in self.groups]

    @cached_property
    def layout(self) -> Layout:
        """Tokens to slots and back."""
        starts = self.starts.tolist()
        token, slot = [], torch.empty(starts[-1], dtype=torch.long)
        padding, first = [], 0
        for part, (_, longest) in zip(self.groups, self.grids, strict=True):
            for sample in part:
                start, length = starts[sample], self.lengths[sample]
                token += [
                    torch.arange(start, start + length),
                    torch.full((longest - length,), start),
                ]
                slot[start : start + length] = torch.arange(first, first + length)
                padding.append(torch.arange(first + length, first + longest))
                first += longest
        made = (torch.cat(token), slot, torch.cat(padding))
        return Layout(*(index.to(self.device) for index in made))


_open: ContextVar[Segments | None] = ContextVar("alpkit_packing", default=None)


@contextmanager
def packed_attention(model: PreTrainedModel, segments: Segments | None) -> Iterator[None]:
    """Inside, layers of `model` attend within the `segments` of one packed row; None: as they ever do."""
    if segments is None:
        yield
        return
    config = model.config.get_text_config()
    before, token = config._attn_implementation, _open.set(segments)
    # transformers forms no mask for an attention of this name: none is needed.
    config._attn_implementation = _NAME
    try:
        yield
    finally:
        config._attn_implementation = before
        _open.reset(token)


def keep_packing(model: PreTrainedModel, fn: Callable[_P, _T]) -> Callable[_P, _T]:
    """`fn`, always run under the packing that is on now, however late."""
    segments = _open.get()

    def run(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        with packed_attention(model, segments):
            return fn(*args, **kwargs)

    return run


def _attend(
    module: nn.Module,
    query: Float[Tensor, "1 heads total dim"],
    key: Float[Tensor, "1 kv_heads total dim"],
    value: Float[Tensor, "1 kv_heads total dim"],
    attention_mask: Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[Float[Tensor, "1 total heads dim"], None]:
    """Attention of every sample to itself, causal, within the layer's window where it has one."""
    segments = _open.get()
    if segments is None:
        raise RuntimeError("packed attention ran outside of packed_attention")
    q, k, v = (part[0].transpose(0, 1) for part in (query, key, value))  # [total, heads, dim]
    if _runs_varlen(segments.kernel, q):
        return _varlen(q, k, v, segments, scaling, sliding_window)[None], None
    return _by_groups(q, k, v, segments, scaling, sliding_window)[None], None


AttentionInterface.register(_NAME, _attend)


def _by_groups(
    q: Float[Tensor, "total heads dim"],
    k: Float[Tensor, "total kv_heads dim"],
    v: Float[Tensor, "total kv_heads dim"],
    segments: Segments,
    scaling: float | None,
    window: int | None,
) -> Float[Tensor, "total heads dim"]:
    repeat = q.shape[1] // k.shape[1]
    sizes = [samples * longest for samples, longest in segments.grids]
    spread = [_Spread.apply(x, segments.layout).split(sizes) for x in (q, k, v)]  # type: ignore[no-untyped-call]
    outputs = []
    for grid, *parts in zip(segments.grids, *spread, strict=True):
        query, key, value = (part.unflatten(0, grid).transpose(1, 2) for part in parts)
        if repeat > 1:
            key, value = (x.repeat_interleave(repeat, dim=1) for x in (key, value))
        mask = _window_mask(grid[1], window, q.device)
        out = scaled_dot_product_attention(
            query, key, value, attn_mask=mask, is_causal=mask is None, scale=scaling
        )
        outputs.append(out.transpose(1, 2).flatten(0, 1))
    collected: Tensor = _Collect.apply(torch.cat(outputs), segments.layout)  # type: ignore[no-untyped-call]
    return collected


class _Spread(torch.autograd.Function):
    """Tokens to slots. Both ways are gathers, as every token has one slot."""

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, layout: Layout) -> Tensor:
        ctx.slot = layout.slot
        return tokens.index_select(0, layout.token)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0].index_select(0, ctx.slot), None


class _Collect(torch.autograd.Function):
    """Slots to tokens; padding gets no gradient."""

    @staticmethod
    def forward(ctx: Any, slots: Tensor, layout: Layout) -> Tensor:
        ctx.layout = layout
        return slots.index_select(0, layout.slot)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        spread = grads[0].index_select(0, ctx.layout.token)
        return spread.index_fill_(0, ctx.layout.padding, 0), None


def _window_mask(
    longest: int, window: int | None, device: torch.device
) -> Bool[Tensor, "longest longest"] | None:
    """Mask of which places see which, where a sample is longer than the layer's window; else None: causal."""
    if window is None or longest <= window:
        return None
    place = torch.arange(longest, device=device)
    behind = place[:, None] - place
    return (behind >= 0) & (behind < window)


def _runs_varlen(kernel: Kernel, query: Tensor) -> bool:
    half = query.dtype in (torch.float16, torch.bfloat16)
    return kernel != "sdpa" and query.is_cuda and half


def _varlen(
    q: Float[Tensor, "total heads dim"],
    k: Float[Tensor, "total kv_heads dim"],
    v: Float[Tensor, "total kv_heads dim"],
    segments: Segments,
    scaling: float | None,
    window: int | None,
) -> Float[Tensor, "total heads dim"]:
    """CUDA's flash kernel over all samples at once."""
    from torch.nn.attention.varlen import varlen_attn

    longest, starts = max(segments.lengths), segments.starts
    out = varlen_attn(
        q.contiguous(),
        k.contiguous(),
        v.contiguous(),
        starts,
        starts,
        longest,
        longest,
        scale=scaling,
        window_size=(-1 if window is None else window - 1, 0),
        enable_gqa=q.shape[1] != k.shape[1],
    )
    assert isinstance(out, Tensor)
    return out


def packing_of(model: PreTrainedModel, hardware: HardwareConfig) -> Packing | None:
    """Choose how `model`'s forwards are packed; None, and a line in the log, where it cannot be packed."""
    if can_pack(model):
        return Packing(hardware.attention)
    logger.warning(
        "%s cannot be packed (its layers mix what stands behind each other in a row): forwards are padded",
        type(model).__name__,
    )
    return None


@torch.no_grad()
def can_pack(model: PreTrainedModel, tolerance: float = 1e-4) -> bool:
    """Whether packed samples do not see each other: tried on the model, against one sample at a time."""
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ())
    if not kinds <= _LAYER_TYPES or getattr(config, "attention_chunk_size", None):
        return False
    from alpkit.policy.logprobs import backbone_of

    device = next(model.parameters()).device
    lengths = (7, 5, 6)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(config.vocab_size, (sum(lengths),), generator=generator).to(device)
    places = torch.cat([torch.arange(n, device=device) for n in lengths])
    backbone = backbone_of(model)
    parts = ids.split(lengths)
    alone = [
        backbone(input_ids=part[None], position_ids=place[None], use_cache=False).last_hidden_state
        for part, place in zip(parts, places.split(lengths), strict=True)
    ]
    try:
        with packed_attention(model, Segments(lengths, device)):
            together = backbone(
                input_ids=ids[None], position_ids=places[None], use_cache=False
            ).last_hidden_state
    except (RuntimeError, TypeError, ValueError, KeyError, AttributeError):
        return False  # an attention of its own, which knows no other by name
    wanted = torch.cat(alone, dim=1)
    gap = (together - wanted).abs().max() / wanted.abs().max().clamp(min=1e-12)
    return bool(gap <= tolerance)
