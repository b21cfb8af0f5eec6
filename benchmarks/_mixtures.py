"""Gaussian mixtures whose velocity is known in closed form, for benchmarks."""

from dataclasses import dataclass

import torch
from scipy.stats import chi2
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

    def sample(self, count: int, seed: int) -> Tensor:
        """Return samples of the data, (count, dimensions)."""
        draw = torch.Generator().manual_seed(seed)
        pick = torch.randint(len(self.means), (count,), generator=draw)
        return self.means[pick] + self.std * torch.randn(count, self.means.shape[1], generator=draw)


@dataclass(frozen=True)
class UnevenMixture:
    """Data that is N(mean, std^2) around each of some means, of its own width and weight."""

    means: Tensor  # (components, dimensions)
    stds: Tensor  # (components,)
    weights: Tensor  # (components,), of any sum

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """See Mixture.__call__."""
        t = t[:, None]
        variance = (1 - t) ** 2 + (self.stds * t) ** 2
        apart = x[:, None] - t[..., None] * self.means
        logits = (
            self.weights.log() - x.shape[1] / 2 * variance.log() - apart.square().sum(dim=2) / (2 * variance)
        )
        slope = (self.stds**2 * t - (1 - t)) / variance
        return (torch.softmax(logits, dim=1)[..., None] * (self.means + slope[..., None] * apart)).sum(dim=1)


@dataclass(frozen=True)
class StudentMixture:
    """The flow of a mixture from Student-t noise: a mean over the radii that the noise may have had.

    Given its chi-squared number w noise is normal, with variance D / w, and the mean is over w's posterior.
    """

    mixture: Mixture
    degrees: float
    radii: int = 128
    """Values of w, equally likely ones, that stand for its law."""

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """See Mixture.__call__."""
        places = (torch.arange(self.radii, dtype=torch.float64) + 0.5) / self.radii
        spread = self.degrees / torch.from_numpy(chi2(self.degrees).ppf(places.numpy())).to(x)  # (radii,)
        t, means, std = t[:, None, None], self.mixture.means.to(x), self.mixture.std
        noise = (1 - t) ** 2 * spread[:, None]  # (n, radii, 1)  the variance of what noise adds
        variance = noise + (t * std) ** 2
        off = x[:, None] - t * means  # (n, components, dimensions)
        squares = off.square().sum(-1)[:, None]  # (n, 1, components)
        dimensions = x.shape[1]
        share = (-squares / (2 * variance) - dimensions / 2 * variance.log()).flatten(1).softmax(1)
        share = share.unflatten(1, (self.radii, len(means)))
        of_data = (share * (t * std**2) / variance).sum(1)  # (n, components)
        of_noise = (share * (noise / (1 - t).clamp(min=1e-12)) / variance).sum(1)
        return share.sum(1) @ means + torch.einsum("nm,nmd->nd", of_data - of_noise, off)
