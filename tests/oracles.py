"""Flows known in closed form, to test against: an equality says more than "looks fine".

Every oracle knows, at any point x = a data + b noise, the posterior means of data and noise given
x. Their difference at a = t, b = 1 - t is the canonical velocity, so one formula serves every path
and every prediction. Numbers are float64; results take x's type.

`gaussian`, `mixture` and `finite_set` make them; `as_model` dresses one as a fewstep Model.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fewstep import paths, predictions
from fewstep.flow import FieldFlow
from fewstep.model import Model, ModelConfig
from fewstep.paths import like


class Oracle:
    """What all oracles can do; subclasses give `posterior`, `sample`, `shape` and perhaps `t_end`."""

    t_end = 1.0

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample."""
        raise NotImplementedError

    def posterior(self, x: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """Return E[data | x] and E[noise | x], (batch, *shape), where x = a data + b noise; a, b (batch,)."""
        raise NotImplementedError

    def sample(self, n: int, *, seed: int = 0) -> Tensor:
        """Return n samples of the data, (n, *shape), float64."""
        raise NotImplementedError

    def velocity(self, x: Tensor, t: Tensor) -> Tensor:
        """Return the canonical velocity E[data - noise | x], (batch, *shape), at t, (batch,)."""
        data, noise = self.posterior(x, t, 1 - t)
        return data - noise

    def noise(self, n: int, *, seed: int = 0) -> Tensor:
        """Return n standard normal noises, (n, *shape), float64, independent of `sample` at any seed."""
        return _normal((n, *self.shape), seed=seed + 1_000_003)

    def flow(self) -> FieldFlow:
        """Return the canonical flow."""
        return FieldFlow(self.velocity, t_end=self.t_end)


@dataclass(frozen=True)
class Gaussian(Oracle):
    """Oracle A: data ~ N(mean, diag(std^2)), of any shape; everything about its flow is known."""

    mean: Tensor  # (*shape)
    std: Tensor  # (*shape)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.mean.shape)

    @property
    def straightness(self) -> float:
        """The integral over t of E|(Z1 - Z0) - velocity|^2, summed over coordinates."""
        return (2 - math.pi / 2) * float(self.std.sum())

    @property
    def first_order(self) -> float:
        """The variance over t of the noise (1 - t) noise / sigma_t that x points back to, likewise summed."""
        t = (torch.arange(20_000, dtype=torch.float64)[:, None] + 0.5) / 20_000
        noise = (1 - t) / ((1 - t) ** 2 + (t * self.std.flatten()) ** 2).sqrt()
        return float(noise.var(dim=0, correction=0).sum())

    @property
    def irreducible_loss(self) -> float:
        """The integral over t of E|data - noise - velocity|^2, summed over coordinates."""
        return math.pi / 2 * float(self.std.sum())

    def velocity(self, x: Tensor, t: Tensor) -> Tensor:
        mean, std, t = self.mean.to(x), self.std.to(x), like(t, x)
        slope = (t * std**2 - (1 - t)) / ((1 - t) ** 2 + t**2 * std**2)
        return mean + slope * (x - t * mean)

    def position(self, noise: Tensor, t: float) -> Tensor:
        """Return where the exact flow is at t, (batch, *shape), when it starts at `noise`."""
        mean, std = self.mean.to(noise), self.std.to(noise)
        return t * mean + ((1 - t) ** 2 + t**2 * std**2).sqrt() * noise

    def posterior(self, x: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        mean, std, a, b = self.mean.to(x), self.std.to(x), like(a, x), like(b, x)
        surprise = (x - a * mean) / (a**2 * std**2 + b**2)
        return mean + a * std**2 * surprise, b * surprise

    def sample(self, n: int, *, seed: int = 0) -> Tensor:
        return self.mean + self.std * _normal((n, *self.shape), seed=seed)


@dataclass(frozen=True)
class Mixture(Oracle):
    """Oracle B: data ~ sum_m weights_m N(means_m, stds_m^2 I); with stds 0, a finite set (oracle C)."""

    weights: Tensor  # (m,)
    means: Tensor  # (m, *shape)
    stds: Tensor  # (m,)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.means.shape[1:])

    @property
    def t_end(self) -> float:
        return 1.0 if bool((self.stds > 0).all()) else 1 - 1e-3

    def posterior(self, x: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        flat, means = x.flatten(1), self.means.to(x).flatten(1)
        weights, stds = self.weights.to(x), self.stds.to(x)
        a, b = a[:, None], b[:, None]
        variance = a**2 * stds**2 + b**2  # (batch, m)
        off = flat[:, None] - a[..., None] * means  # (batch, m, dims)
        log_density = -(off**2).sum(-1) / (2 * variance) - means.shape[1] / 2 * variance.log()
        share = torch.softmax(weights.log() + log_density, dim=1)[..., None]
        surprise = off / variance[..., None]
        data = (share * (means + (a * stds**2)[..., None] * surprise)).sum(1)
        noise = (share * b[..., None] * surprise).sum(1)
        return data.reshape(x.shape), noise.reshape(x.shape)

    def sample(self, n: int, *, seed: int = 0) -> Tensor:
        return self.labelled_sample(n, seed=seed)[0]

    def labelled_sample(self, n: int, *, seed: int = 0) -> tuple[Tensor, Tensor]:
        """Return n samples, (n, *shape), and the components they came from, int64 (n,)."""
        pick = torch.multinomial(self.weights, n, replacement=True, generator=_generator(seed))
        noise = _normal((n, *self.shape), seed=seed + 1)
        return self.means[pick] + like(self.stds[pick], noise) * noise, pick


def gaussian(mean: Sequence | Tensor, std: Sequence | Tensor) -> Gaussian:
    """Return oracle A; mean and std have the shape of one sample."""
    return Gaussian(_double(mean), _double(std))


def mixture(weights: Sequence, means: Sequence | Tensor, stds: Sequence) -> Mixture:
    """Return oracle B; weights (m,), means (m, *shape), stds (m,)."""
    return Mixture(_double(weights), _double(means), _double(stds))


def finite_set(points: Sequence | Tensor) -> Mixture:
    """Return oracle C, the flow to `points`, (m, *shape), each equally likely; undefined at t = 1."""
    m = len(points)
    return mixture([1 / m] * m, points, [0.0] * m)


def two_gaussians() -> Mixture:
    """Return a lopsided mixture in the plane, curved enough that no solver looks better than it is."""
    return mixture([0.6, 0.4], [[2.0, 0.5], [-1.0, -1.5]], [0.5, 0.8])


class _Network(nn.Module):
    def __init__(self, oracle: Oracle, config: ModelConfig) -> None:
        super().__init__()
        self.oracle, self.config = oracle, config

    def forward(self, x: Tensor, t: Tensor, **conditions: Tensor) -> Tensor:
        c = paths.get(self.config.path).coefficients(t)
        data, noise = self.oracle.posterior(x, c.a, c.b)
        return predictions.express(self.config.prediction, data, noise, c)


def as_model(oracle: Oracle, *, path: str = "linear", prediction: str = "velocity") -> Model:
    """Return a Model that predicts, without error, `prediction` of `oracle` on `path`."""
    config = ModelConfig(
        architecture={"name": "oracle"}, shape=oracle.shape, path=path, prediction=prediction
    )
    return Model(config, _Network(oracle, config))


def _double(numbers: Sequence | Tensor) -> Tensor:
    return torch.as_tensor(numbers, dtype=torch.float64)


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _normal(shape: tuple[int, ...], *, seed: int) -> Tensor:
    return torch.randn(shape, generator=_generator(seed), dtype=torch.float64)
