"""Which noise is on, and how a forward that a checkpoint runs again finds the noise it had.

Activation checkpointing runs a forward a second time inside backward, when the `with` that turned
the noise on may be closed, or another one open. `bound(fn)` carries what is on now along with `fn`;
a recomputed forward that was not bound is refused, never run with the wrong noise.

    torch.utils.checkpoint.checkpoint(bound(block), hidden, use_reentrant=False)

Not here: the noise itself (`alpkit.policy.perturbation.noise`) and what opens the gate (`LayerwisePerturbation`).
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any, NamedTuple, ParamSpec, TypeVar

import torch
from jaxtyping import Int
from torch import Tensor

_P = ParamSpec("_P")
_T = TypeVar("_T")


class _State(NamedTuple):
    """What is open, by owner, and the backward pass (-1: none) in which that was said."""

    open: Mapping[int, Any]
    backward: int


class HeadTokens(NamedTuple):
    """Which tokens of the [batch, tok] grid the rows of an LM-head call are."""

    row: Int[Tensor, " n"]
    column: Int[Tensor, " n"]


_CLOSED = _State(MappingProxyType({}), -1)
_state: ContextVar[_State] = ContextVar("alpkit_gate", default=_CLOSED)
_head_tokens: ContextVar[HeadTokens | None] = ContextVar("alpkit_head_tokens", default=None)


@contextmanager
def opened(owner: object, what: object) -> Iterator[None]:
    """Inside, `current(owner)` gives `what`."""
    token = _state.set(_State({**_state.get().open, id(owner): what}, _backward()))
    try:
        yield
    finally:
        _state.reset(token)


def current(owner: object) -> Any:
    """What `owner` has open, or None. RuntimeError in a recomputed forward that was not `bound`."""
    state, backward = _state.get(), _backward()
    if state.backward != backward:
        raise RuntimeError(
            "a forward is recomputed inside backward by a checkpoint that does not say which noise "
            "it ran with; use model.gradient_checkpointing_enable(), or checkpoint(bound(fn), ...) "
            "with alpkit.policy.perturbation.gate.bound, or remove() the perturbation"
        )
    return state.open.get(id(owner))


def bound(fn: Callable[_P, _T]) -> Callable[_P, _T]:
    """`fn`, always run under the noise that is on now, on whatever thread and however late."""
    kept = _state.get().open

    def run(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        token = _state.set(_State(kept, _backward()))
        try:
            return fn(*args, **kwargs)
        finally:
            _state.reset(token)

    return run


@contextmanager
def head_tokens(tokens: HeadTokens) -> Iterator[None]:
    """Say which tokens the LM head is about to see, where it does not see the whole grid."""
    token = _head_tokens.set(tokens)
    try:
        yield
    finally:
        _head_tokens.reset(token)


def tokens_at_head() -> HeadTokens | None:
    """What `head_tokens` said, or None: the LM head sees every token."""
    return _head_tokens.get()


def _backward() -> int:
    """Id of the backward pass that this thread runs in, -1 outside of any."""
    return int(torch._C._current_graph_task_id())


class BoundCheckpointing:
    """A layer's checkpointing function (transformers calls it with fn and its inputs), bound."""

    def __init__(self, original: Callable[..., Any]) -> None:
        self.original = original

    def __call__(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
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
