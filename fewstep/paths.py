"""Paths from noise to data: x_t = a(t) data + b(t) noise, with t = 0 noise and t = 1 data.

Paths matter in training and in the one adaptor `fewstep.flow.as_flow`. Grids, solvers and search
act on the canonical path, the linear one: y = x / (a + b) at the canonical time a / (a + b).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from etils.epy import lazy_imports

from fewstep.errors import UserError
from fewstep.registry import unknown

if TYPE_CHECKING:
    from torch import Tensor

with lazy_imports():
    import torch


def like(t: Tensor, x: Tensor) -> Tensor:
    """Return t, shape (batch,), shaped to broadcast against x, shape (batch, ...)."""
    return t.reshape(-1, *(1,) * (x.dim() - 1))


@dataclass(frozen=True, kw_only=True)
class Coefficients:
    """The path at some times: x = a data + b noise, dx/dt = da data + db noise. All (batch,)."""

    a: Tensor
    b: Tensor
    da: Tensor
    db: Tensor


@dataclass(frozen=True, kw_only=True)
class PathSample:
    """Points on the path, with the velocity dx/dt at which noise and data are held fixed."""

    x: Tensor  # (batch, *shape)
    t: Tensor  # (batch,)
    noise: Tensor  # (batch, *shape)
    data: Tensor  # (batch, *shape)
    velocity: Tensor  # (batch, *shape)


class Path:
    """A path; subclasses give `coefficients` and `time_of`, the inverse of `canonical_time`."""

    def coefficients(self, t: Tensor) -> Coefficients:
        """Return a, b and their time derivatives at t, each of t's shape."""
        raise NotImplementedError

    def time_of(self, canonical: Tensor) -> Tensor:
        """Return this path's own time at which a / (a + b) equals `canonical`, in [0, 1]."""
        raise NotImplementedError

    def canonical_time(self, t: Tensor) -> Tensor:
        """Return a / (a + b) at this path's own time t."""
        c = self.coefficients(t)
        return c.a / (c.a + c.b)

    def sample(self, noise: Tensor, data: Tensor, t: Tensor) -> PathSample:
        """Return the points of the path between noise and data, (batch, *shape), at t, (batch,)."""
        c = self.coefficients(t)
        x = like(c.a, data) * data + like(c.b, noise) * noise
        velocity = like(c.da, data) * data + like(c.db, noise) * noise
        return PathSample(x=x, t=t, noise=noise, data=data, velocity=velocity)


class Linear(Path):
    """Straight lines, a = t and b = 1 - t; Liu et al. 2022 (arXiv 2209.03003), eq. 1."""

    def coefficients(self, t: Tensor) -> Coefficients:
        """See Path.coefficients."""
        one = torch.ones_like(t)
        return Coefficients(a=t, b=1 - t, da=one, db=-one)

    def time_of(self, canonical: Tensor) -> Tensor:
        """See Path.time_of."""
        return canonical


class Cosine(Path):
    """A quarter turn, a = sin(pi t / 2) and b = cos(pi t / 2); Albergo and Vanden-Eijnden 2022."""

    def coefficients(self, t: Tensor) -> Coefficients:
        """See Path.coefficients."""
        half_pi = math.pi / 2
        a, b = torch.sin(half_pi * t), torch.cos(half_pi * t)
        return Coefficients(a=a, b=b, da=half_pi * b, db=-half_pi * a)

    def time_of(self, canonical: Tensor) -> Tensor:
        """See Path.time_of; tan(pi t / 2) = canonical / (1 - canonical)."""
        return torch.atan2(canonical, 1 - canonical) * (2 / math.pi)


class Vp(Path):
    """Variance preserving diffusion with linear beta from .1 to 20; Song et al. 2021, eq. 33.

    With u = 1 - t the diffusion time, log a = -u^2 (20 - .1) / 4 - .1 u / 2 and b^2 = 1 - a^2.
    """

    beta_min, beta_max = 0.1, 20.0

    def coefficients(self, t: Tensor) -> Coefficients:
        """See Path.coefficients; db is minus infinity at t = 1."""
        u, rise = 1 - t, self.beta_max - self.beta_min
        log_a = -(u**2) * rise / 4 - u * self.beta_min / 2
        a, b = log_a.exp(), (-torch.expm1(2 * log_a)).sqrt()
        da = a * (u * rise / 2 + self.beta_min / 2)
        return Coefficients(a=a, b=b, da=da, db=-a * da / b)

    def time_of(self, canonical: Tensor) -> Tensor:
        """See Path.time_of; b / a fixes a, and log a is a quadratic in u."""
        log_a = -torch.log1p(((1 - canonical) / canonical) ** 2) / 2
        rise = self.beta_max - self.beta_min
        root = (self.beta_min**2 - 4 * rise * log_a).sqrt()
        return (1 - (root - self.beta_min) / rise).clamp(0, 1)


class Ve(Path):
    """Variance exploding diffusion, a = 1 and b from 80 down to .002, geometric; Song et al. 2021."""

    sigma_min, sigma_max = 0.002, 80.0

    def coefficients(self, t: Tensor) -> Coefficients:
        """See Path.coefficients."""
        fall = math.log(self.sigma_min / self.sigma_max)
        b = self.sigma_max * torch.exp(fall * t)
        return Coefficients(a=torch.ones_like(t), b=b, da=torch.zeros_like(t), db=fall * b)

    def time_of(self, canonical: Tensor) -> Tensor:
        """See Path.time_of; sigma = (1 - canonical) / canonical."""
        log_sigma = torch.log((1 - canonical) / canonical)
        fall = math.log(self.sigma_min / self.sigma_max)
        return ((log_sigma - math.log(self.sigma_max)) / fall).clamp(0, 1)


PATHS: dict[str, type[Path]] = {"linear": Linear, "cosine": Cosine, "vp": Vp, "ve": Ve}


def get(name: str) -> Path:
    """Return the path of that name.

    Raises:
        UserError: if there is none; the message lists those that exist.
    """
    if name not in PATHS:
        raise UserError(unknown("path", name, list(PATHS)))
    return PATHS[name]()
