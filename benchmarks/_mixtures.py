"""Gaussian mixtures whose velocity is known in closed form, for benchmarks."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Mixture:
    """Data that is N(mean, std^2) around each of some means, equally likely."""

    means: Tensor  # (components, dimensions)
    std: float

    @classmethod
    def drawn(cls, dimensions: int, components: int, std: float) -> "Mixture":
        """Return one with standard normal means."""
        draw = torch.Generator().manual_seed(0)
        return cls(torch.randn(components, dimensions, generator=draw), std)

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """Return the velocity, (n, dimensions), of the canonical flow at x and t, (n,)."""
        t, means = t[:, None], self.means.to(x)
        variance = (1 - t) ** 2 + (t * self.std) ** 2
        near = t * (x @ means.T) - t**2 * means.square().sum(1) / 2  # -|x - t mean|^2 / 2, but for |x|^2
        centre = torch.softmax(near / variance, dim=1) @ means
        return centre + (t * self.std**2 - (1 - t)) / variance * (x - t * centre)
