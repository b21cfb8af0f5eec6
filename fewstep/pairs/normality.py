"""Whether numbers are independent standard normal, told from sums over samples that add up."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

import numpy as np


@dataclass(frozen=True, eq=False, kw_only=True)
class NormalSums:
    """Sums over samples of one shape, float64; those of two sets are added with +.

    Their size is that of a sample, whatever the number of samples. numpy adds them up on one thread, so
    that equal samples have equal sums on any number of processors.
    """

    count: int
    """Samples."""
    total: np.ndarray
    """Of each coordinate, (*shape)."""
    squares: np.ndarray
    """Of each coordinate, (*shape)."""
    fourth: float
    """The fourth powers of all numbers."""
    neighbours: np.ndarray
    """Products of neighbours along each axis of a sample, (axes,)."""
    norm_spread: float
    """Of (|x|^2 - d)^2, where d is the number of coordinates."""
    farthest: float
    """The norm of one sample that is least likely, in standard deviations; see `norm_z`."""

    @classmethod
    def of(cls, samples: np.ndarray) -> NormalSums:
        """Return the sums over `samples`, (n, *shape)."""
        x = samples.astype(np.float64)
        squares = x**2
        norms, d = squares.reshape(len(x), -1).sum(1), math.prod(x.shape[1:])
        return cls(
            count=len(x),
            total=x.sum(0),
            squares=squares.sum(0),
            fourth=float((squares**2).sum()),
            neighbours=np.array([_neighbours(x, axis) for axis in range(1, x.ndim)]),
            norm_spread=float(((norms - d) ** 2).sum()),
            farthest=float(np.abs(norm_z(norms, d)).max()),
        )

    def __add__(self, other: NormalSums) -> NormalSums:
        """Return the sums over the samples of both."""
        assert self.total.shape == other.total.shape
        names = [field.name for field in fields(self) if field.name != "farthest"]
        sums = {name: getattr(self, name) + getattr(other, name) for name in names}
        return NormalSums(**sums, farthest=max(self.farthest, other.farthest))

    @property
    def variance(self) -> np.ndarray:
        """Of each coordinate, (*shape)."""
        return np.maximum(self.squares / self.count - (self.total / self.count) ** 2, 0)

    @property
    def norm(self) -> float:
        """The root mean square of |x| / sqrt(d): 1 if normal."""
        return float(np.sqrt(self.squares.sum() / (self.count * self.squares.size)))

    @property
    def autocorrelation(self) -> float:
        """The mean product of neighbours over the mean square, along the axis where it is farthest from 0."""
        products = self.neighbours / np.maximum(self._neighbour_pairs(), 1)
        largest = products[np.argmax(np.abs(products))] if products.size else 0.0
        return float(largest / max(self.norm**2, 1e-300))

    def worst(self) -> tuple[str, float]:
        """Return the statistic that is most standard errors from its law, in words, and how many."""
        scores = self._scores()
        name = max(scores, key=lambda n: math.inf if math.isnan(scores[n]) else scores[n])
        return name, scores[name]

    def _scores(self) -> dict[str, float]:
        """Return how many standard errors averages are off whose mean and variance are known if normal.

        Each is blind to what the others see, so that the worst names the cause: the tails are the average
        of a Hermite polynomial, x^4 - 6x^2 + 3, and the spread that of |x|^2 about its own mean, whose law
        follows from the central moments of the chi-squared one, 2d and 12d(d + 4).
        """
        n, d = self.count, self.total.size
        squares = float(self.squares.sum())
        tails = self.fourth - 6 * squares + 3 * n * d
        spread = self.norm_spread - (squares - n * d) ** 2 / n
        scores = {
            "mean": _z(float(self.total.sum()), n * d, 0, 1),
            "variance": _z(squares, n * d, 1, 2),
            "tails": _z(tails, n * d, 0, 24),
            "spread of norms": _z(spread, n, 2 * d * (n - 1) / n, 8 * d**2 + 48 * d),
        }
        pairs = zip(self.neighbours.tolist(), self._neighbour_pairs().tolist(), strict=True)
        axes = {f"neighbours along axis {i}": _z(p, k, 0, 1) for i, (p, k) in enumerate(pairs) if k}
        return scores | axes

    def _neighbour_pairs(self) -> np.ndarray:
        """Return how many neighbours there are along each axis, (axes,)."""
        shape = self.total.shape
        return np.array([self.count * self.total.size // size * (size - 1) for size in shape])

    def plain(self) -> dict[str, Any]:
        """Return the sums as JSON values, from which `restore` makes them again exactly."""
        return {
            name: value.tolist() if isinstance(value, np.ndarray) else value
            for name, value in vars(self).items()
        }

    @classmethod
    def restore(cls, plain: dict[str, Any]) -> NormalSums:
        """Return what `plain` was made of."""
        made: dict[str, Any] = {n: np.array(v) if isinstance(v, list) else v for n, v in plain.items()}
        return cls(**made)


def norm_z(squared_norms: np.ndarray, d: int) -> np.ndarray:
    """Return squared norms of samples of d coordinates as if they were normal: mean 0, deviation 1.

    Their law is chi-squared; its cube root is nearly normal (Wilson and Hilferty 1931).
    """
    variance = 2 / (9 * d)
    return (np.cbrt(squared_norms / d) - (1 - variance)) / math.sqrt(variance)


def _neighbours(x: np.ndarray, axis: int) -> float:
    lines = np.moveaxis(x, axis, 0)
    return float((lines[1:] * lines[:-1]).sum())


def _z(total: float, terms: int, mean: float, variance: float) -> float:
    return abs(total / terms - mean) * math.sqrt(terms / variance)
