"""Say which sample each token of a padded or packed [batch, tok] grid belongs to, and its place in it.

Noise is drawn per sample over its real tokens in order; this is the map between the two. Nothing of
the grid's shape (padding, packing, split) is left in it but where the numbers go.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

SampleIds = Sequence[int] | Int[Tensor, " batch"] | Int[Tensor, "batch tok"]


class SampleTokens(NamedTuple):
    """One sample's real tokens in order: in `row`, columns `start` to `stop`, or `columns` if scattered."""

    sample: int
    row: int
    start: int
    stop: int
    columns: Int[Tensor, " n"] | None

    @property
    def length(self) -> int:
        return self.stop - self.start if self.columns is None else len(self.columns)


class TokenLayout:
    """The samples of one [batch, tok] grid.

    `sample` is an id per row (default: its index) or, for packed rows, per token; `mask` marks real
    tokens (default: all). ValueError where shapes disagree or two samples of the grid share an id.
    """

    def __init__(
        self,
        shape: tuple[int, int],
        sample: SampleIds | None = None,
        mask: Bool[Tensor, "batch tok"] | None = None,
    ) -> None:
        self.shape = shape
        self.mask = mask
        if mask is not None and tuple(mask.shape) != shape:
            raise ValueError(
                f"mask has shape {tuple(mask.shape)}, the hidden states have [batch, tok] = {list(shape)}"
            )
        ids = torch.as_tensor(range(shape[0]) if sample is None else sample).cpu()
        if tuple(ids.shape) not in (shape[:1], shape):
            raise ValueError(
                f"sample has shape {tuple(ids.shape)}, expected one id per row [{shape[0]}] "
                f"or per token {list(shape)}"
            )
        self._ids = ids
        self._real = None if mask is None else mask.cpu()
        self.samples = [part for row in range(shape[0]) for part in self._row(row)]
        names = [part.sample for part in self.samples]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(
                f"sample id {twice} names two samples of one forward, which would share their noise"
            )

    @cached_property
    def full(self) -> bool:
        """Whether every token is real."""
        return sum(part.length for part in self.samples) == self.shape[0] * self.shape[1]

    def locate(
        self, row: Int[Tensor, " n"], column: Int[Tensor, " n"]
    ) -> list[tuple[int, int] | None]:
        """Give sample id and place among the sample's real tokens, for the given tokens; None for padding."""
        return [self._places.get(key) for key in zip(row.tolist(), column.tolist(), strict=True)]

    @cached_property
    def _places(self) -> dict[tuple[int, int], tuple[int, int]]:
        return {
            (part.row, column): (part.sample, place)
            for part in self.samples
            for place, column in enumerate(
                range(part.start, part.stop) if part.columns is None else part.columns.tolist()
            )
        }

    def _row(self, row: int) -> list[SampleTokens]:
        if self._ids.ndim == 1:
            return self._parts(row, int(self._ids[row]), self._columns(row))
        real, ids = self._columns(row), self._ids[row]
        columns = torch.arange(self.shape[1]) if real is None else real
        return [
            part
            for name in dict.fromkeys(ids[columns].tolist())
            for part in self._parts(row, name, columns[ids[columns] == name])
        ]

    def _columns(self, row: int) -> Tensor | None:
        return None if self._real is None else self._real[row].nonzero()[:, 0]

    def _parts(self, row: int, sample: int, columns: Tensor | None) -> list[SampleTokens]:
        if columns is None:
            return [SampleTokens(sample, row, 0, self.shape[1], None)]
        if len(columns) == 0:
            return []
        start, stop = int(columns[0]), int(columns[-1]) + 1
        together = stop - start == len(columns)
        return [SampleTokens(sample, row, start, stop, None if together else columns)]
