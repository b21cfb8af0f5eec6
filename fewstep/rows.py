"""Rows: samples by their numbers, whether a tensor holds them or they stay where they are stored."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from fewstep import randomness
from fewstep.lazy import lazy_imports

if TYPE_CHECKING:
    from torch import Tensor

with lazy_imports():
    import torch

PIECE_BYTES = 2**26  # of samples as float32, to be in memory at once


class Rows(Protocol):
    """A tensor (n, *shape), or what stands for one that need not fit in memory."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, *shape)."""

    def __len__(self) -> int:
        """Return n."""

    def __getitem__(self, numbers: Tensor) -> Tensor:
        """Return the samples with these numbers, int64 (m,), as a tensor (m, *shape)."""


@dataclass(frozen=True)
class Chosen:
    """Some of the rows, renumbered."""

    rows: Rows
    numbers: Tensor  # (n,) int64

    @property
    def shape(self) -> tuple[int, ...]:
        """See Rows."""
        return len(self), *self.rows.shape[1:]

    def __len__(self) -> int:
        """See Rows."""
        return len(self.numbers)

    def __getitem__(self, numbers: Tensor) -> Tensor:
        """See Rows."""
        return self.rows[self.numbers[numbers]]


@dataclass(frozen=True)
class Changed:
    """Rows to which something is done when they are asked for."""

    rows: Rows
    change: Callable[[Tensor], Tensor]
    """Takes samples (m, *shape of rows), whatever m is."""

    @property
    def shape(self) -> tuple[int, ...]:
        """See Rows."""
        return len(self), *self[torch.arange(1)].shape[1:]

    def __len__(self) -> int:
        """See Rows."""
        return len(self.rows)

    def __getitem__(self, numbers: Tensor) -> Tensor:
        """See Rows."""
        own = pieces(numbers, self.rows.shape[1:])  # what they are changed to may be far smaller
        parts = [self.change(self.rows[part]) for part in own]
        return parts[0] if len(parts) == 1 else torch.cat(parts)


def pieces(numbers: Tensor, shape: tuple[int, ...]) -> tuple[Tensor, ...]:
    """Return numbers, int64 (m,), of samples of that shape, so many together as are read at once."""
    return numbers.split(max(1, PIECE_BYTES // max(1, 4 * math.prod(shape))))


def in_pieces(rows: Rows) -> Iterator[Tensor]:
    """Yield all samples in order, (m, *shape) at a time."""
    return (rows[numbers] for numbers in pieces(torch.arange(len(rows)), rows.shape[1:]))


def some_of(rows: Rows, most: int, *, stream: str, seed: int) -> Rows:
    """Return at most `most` of the rows, drawn at random, in their order; `stream` names the draw."""
    if len(rows) <= most:
        return rows
    drawn = torch.from_numpy(randomness.permutation(stream, seed, 0, len(rows))[:most])
    return Chosen(rows, drawn.sort().values)


@dataclass
class Running:
    """Mean and standard deviation of values that come a piece at a time."""

    count: int = 0
    mean: Tensor | float = 0.0  # (d,) float64
    scatter: Tensor | float = 0.0  # (d,) float64  sum of the squared distances to the mean

    def add(self, values: Tensor) -> None:
        """Add some, (m, d), as Chan, Golub and LeVeque 1983 do, eq. 2.1."""
        values, more = values.double(), len(values)
        own = values.mean(0)
        apart, total = own - self.mean, self.count + more
        self.scatter = self.scatter + (values - own).square().sum(0) + apart**2 * (self.count * more / total)
        self.mean = self.mean + apart * (more / total)
        self.count = total

    @property
    def std(self) -> Tensor:
        """The standard deviation, (d,), of two or more values."""
        return (torch.as_tensor(self.scatter) / (self.count - 1)).sqrt()


def standard_deviation(rows: Rows) -> Tensor:
    """Return that of all numbers in all samples, float32 ()."""
    found = Running()
    for part in in_pieces(rows):
        found.add(part.reshape(-1, 1))
    return found.std[0].float()
