"""Keep which noise is on, also for forwards that activation checkpointing runs again.

Activation checkpointing runs a forward a second time inside backward, when the `with` that turned
the noise on may be closed, or another one open. `bound(fn)` carries what is on now along with `fn`;
a recomputed forward that was not bound is refused, never run with the wrong noise.

    torch.utils.checkpoint.checkpoint(bound(block), hidden, use_reentrant=False)

Not here: the noise itself (`alpkit.policy.perturbation.noise`) and what opens the gate (`LayerwisePerturbation`).
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple, ParamSpec, TypeVar, cast

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from alpkit.policy.perturbation.token_layout import SampleIds, TokenLayout

_P = ParamSpec("_P")
_T = TypeVar("_T")


class HeadTokens(NamedTuple):
    """The tokens of the [batch, tok] grid that an LM-head call computes."""

    row: Int[Tensor, " n"]
    column: Int[Tensor, " n"]


@dataclass
class Draw:
    """One open `active(...)`: which noise, for which tokens, and whether all it met was finite."""

    key: tuple[int, ...]
    sign: int
    factor: float
    sample: SampleIds | None
    mask: Bool[Tensor, "batch tok"] | None
    grid: tuple[int, int] | None = None
    """[batch, tok] of the model's input, once its decoder was entered."""
    finite: dict[int, Tensor] = field(default_factory=dict)
    """Slot -> whether the states that it met were finite."""
    _layouts: dict[tuple[int, int], TokenLayout] = field(default_factory=dict)

    def layout(self, grid: tuple[int, int]) -> TokenLayout:
        """Say which sample every token of a grid belongs to."""
        if grid not in self._layouts:
            self._layouts[grid] = TokenLayout(grid, self.sample, self.mask)
        return self._layouts[grid]

    def grid_of(self, hidden: Tensor) -> tuple[int, int]:
        """Give [batch, tok] of hidden states, which OPT and some experts flatten inside a layer."""
        return self._entered() if hidden.ndim == 2 else (hidden.shape[0], hidden.shape[1])

    def grid_of_logits(self, logits: Tensor) -> tuple[tuple[int, int], HeadTokens | None]:
        """Give [batch, tok] of the model's input, and the tokens whose logits these are (None: all)."""
        grid, head = self._entered(), tokens_at_head()
        if head is None and tuple(logits.shape[:-1]) != grid:
            raise ValueError(
                f"perturbation.site logits: logits of shape {list(logits.shape)} for a batch of "
                f"{list(grid)} tokens do not say which tokens they are of; leave logits_to_keep out, "
                "or name them with alpkit.policy.perturbation.gate.head_tokens"
            )
        return grid, head

    def _entered(self) -> tuple[int, int]:
        if self.grid is None:
            raise RuntimeError("call the model itself inside active(...), not a module inside it")
        return self.grid


class _State(NamedTuple):
    """The open draws by owner, and the backward pass (-1: none) in which they were opened."""

    open: Mapping[int, Draw]
    backward: int


_CLOSED = _State(MappingProxyType({}), -1)
_state: ContextVar[_State] = ContextVar("alpkit_gate", default=_CLOSED)
_head_tokens: ContextVar[HeadTokens | None] = ContextVar("alpkit_head_tokens", default=None)


@contextmanager
def opened(owner: object, draw: Draw) -> Iterator[None]:
    """Open `draw` for `owner` inside the block: `current(owner)` gives it."""
    token = _state.set(_State({**_state.get().open, id(owner): draw}, _backward()))
    try:
        yield
    finally:
        _state.reset(token)


def current(owner: object) -> Draw | None:
    """Give the draw that `owner` has open, or None; RuntimeError in a recomputed forward that was not `bound`."""
    state, backward = _state.get(), _backward()
    if state.backward != backward:
        raise RuntimeError(
            "a forward is recomputed inside backward by a checkpoint that does not say which noise "
            "it ran with; use model.gradient_checkpointing_enable(), or checkpoint(bound(fn), ...) "
            "with alpkit.policy.perturbation.gate.bound, or remove() the perturbation"
        )
    return state.open.get(id(owner))


def bound(fn: Callable[_P, _T]) -> Callable[_P, _T]:
    """Wrap `fn` so that it always runs under the noise that is on now, on whatever thread and however late."""
    kept = _state.get().open

    def run(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        token = _state.set(_State(kept, _backward()))
        try:
            return fn(*args, **kwargs)
        finally:
            _state.reset(token)

    return run


def eager(hook: Callable[_P, _T]) -> Callable[_P, _T]:
    """Break torch.compile's graph at a hook: generators and gates are not for tracing."""
    return cast(Callable[_P, _T], torch.compiler.disable(hook))


@contextmanager
def head_tokens(tokens: HeadTokens) -> Iterator[None]:
    """Say which tokens the LM head is about to see, where it does not see the whole grid."""
    token = _head_tokens.set(tokens)
    try:
        yield
    finally:
        _head_tokens.reset(token)


def tokens_at_head() -> HeadTokens | None:
    """Give what `head_tokens` said, or None: the LM head sees every token."""
    return _head_tokens.get()


def _backward() -> int:
    """Give the id of the backward pass that this thread runs in, -1 outside of any."""
    return int(torch._C._current_graph_task_id())


class BoundCheckpointing:
    """A layer's checkpointing function (transformers calls it with fn and its inputs), bound."""

    def __init__(self, original: Callable[..., object]) -> None:
        self.original = original

    def __call__(self, fn: Callable[..., object], *args: object, **kwargs: object) -> object:
        return self.original(bound(fn), *args, **kwargs)


def bind_checkpointing(layers: list[torch.nn.Module]) -> None:
    """Bind what `gradient_checkpointing_enable` put on the layers; done before every forward."""
    for layer in layers:
        function = getattr(layer, "_gradient_checkpointing_func", None)
        if function is not None and not isinstance(function, BoundCheckpointing):
            layer._gradient_checkpointing_func = BoundCheckpointing(function)  # type: ignore[assignment]


def unbind_checkpointing(layers: list[torch.nn.Module]) -> None:
    """Put the layers' own checkpointing functions back."""
    for layer in layers:
        function = getattr(layer, "_gradient_checkpointing_func", None)
        if isinstance(function, BoundCheckpointing):
            layer._gradient_checkpointing_func = function.original  # type: ignore[assignment]
