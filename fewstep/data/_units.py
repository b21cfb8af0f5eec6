"""Units: the numbers by which points are standardised, and their samples come back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fewstep.lazy import lazy_imports
from fewstep.rows import pieces

if TYPE_CHECKING:
    from fewstep.data._member import Member

with lazy_imports():
    import torch


@dataclass(frozen=True)
class Units:
    """Standard deviation and mean of each feature, float64 (D,)."""

    scale: np.ndarray
    offset: np.ndarray

    def standardised(self, points: np.ndarray) -> np.ndarray:
        """Return points (m, D) of mean 0 and deviation 1; features of one value stay as they are."""
        varies = self.scale > 0
        return np.where(varies, (points - self.offset) / np.where(varies, self.scale, 1), points)

    def facts(self) -> dict[str, list[float]]:
        """Return plain values."""
        return {"scale": self.scale.tolist(), "offset": self.offset.tolist()}


def units_of(points: Member) -> Units | None:
    """Return the units of points (n, D), from those that are finite; None if none are."""
    total, count = _sum(points, lambda part: part)
    if not count:
        return None
    offset = total / count
    squares, _ = _sum(points, lambda part: np.square(part - offset))
    return Units(np.sqrt(squares / count), offset)


def _sum(points: Member, change: Callable[[np.ndarray], np.ndarray]) -> tuple[np.ndarray, int]:
    """Return the sum, float64 (D,), over what becomes of finite points, and how many there are.

    Each is added to the sum of those before, so pieces of any size give the same number, but for rounding
    where there is a single feature.
    """
    total, count = np.zeros((1, points.shape[1])), 0
    for part in _finite(points):
        total = np.concatenate([total, change(part)]).sum(0, dtype=np.float64, keepdims=True)
        count += len(part)
    return total[0], count


def _finite(points: Member) -> Iterator[np.ndarray]:
    for numbers in pieces(torch.arange(points.shape[0]), points.shape[1:]):
        part = points.read(numbers.numpy())
        yield part[np.isfinite(part).all(1)]
