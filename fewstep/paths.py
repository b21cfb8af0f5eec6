"""Paths from noise to data: x_t = a(t) data + b(t) noise, with t = 0 noise and t = 1 data.

Paths matter in training and in the one adaptor `fewstep.flow.as_flow`. Grids, solvers and search
act on the canonical path, the linear one: y = x / (a + b) at the canonical time a / (a + b).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from fewstep.errors import UserError
from fewstep.lazy import lazy_imports
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
    spread: float = 1.0
    """What data is divided by where the path preserves variance: (spread a)^2 + b^2 = 1 there."""

    def to(self, other: Tensor) -> Coefficients:
        """Return them in the type of another tensor, and on its device."""
        parts = (part.to(other) for part in (self.a, self.b, self.da, self.db))
        return Coefficients(**dict(zip(("a", "b", "da", "db"), parts, strict=True)), spread=self.spread)


@dataclass(frozen=True, kw_only=True)
class PathSample:
    """Points on the path, at times where it has the coefficients c."""

    x: Tensor  # (batch, *shape)
    t: Tensor  # (batch,)
    noise: Tensor  # (batch, *shape)
    data: Tensor  # (batch, *shape)
    c: Coefficients

    @property
    def velocity(self) -> Tensor:
        """The velocity dx/dt at which noise and data are held fixed, (batch, *shape)."""
        return like(self.c.da, self.data) * self.data + like(self.c.db, self.noise) * self.noise


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
        return PathSample(x=x, t=t, noise=noise, data=data, c=c)


@dataclass(frozen=True)
class Linear(Path):
    """Straight lines, a = t and b = 1 - t; Liu et al. 2022 (arXiv 2209.03003), eq. 1.

    With gamma the interpolant (1 - t) noise + t data + sqrt(gamma t (1 - t)) z of a second noise z; Albergo
    et al. 2023 (arXiv 2303.08797). Both noises are normal, so their sum is one noise with
    b^2 = (1 - t)^2 + gamma t (1 - t); at gamma = 2 that is 1 - t^2, a variance preserving path.

    Raises:
        UserError: if gamma is below 0 or not finite.
    """

    gamma: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.gamma < math.inf:
            raise UserError(f"path linear: gamma must be a number from 0, got {self.gamma}")

    def coefficients(self, t: Tensor) -> Coefficients:
        """See Path.coefficients; with gamma db is minus infinity at t = 1."""
        one, left = torch.ones_like(t), 1 - t
        if not self.gamma:
            return Coefficients(a=t, b=left, da=one, db=-one)
        b = (left * (left + self.gamma * t)).sqrt()
        return Coefficients(a=t, b=b, da=one, db=(self.gamma * (1 - 2 * t) - 2 * left) / (2 * b))

    def time_of(self, canonical: Tensor) -> Tensor:
        """See Path.time_of; u^2 + gamma u = (b / a)^2 for u = (1 - t) / t."""
        if not self.gamma:
            return canonical
        noise_part = (1 - canonical) ** 2
        root = ((self.gamma * canonical) ** 2 + 4 * noise_part).sqrt()
        reach = canonical * (self.gamma * canonical + root)
        return reach / (reach + 2 * noise_part)


@dataclass(frozen=True)
class Cosine(Path):
    """A quarter turn, a = sin(pi t / 2) and b = cos(pi t / 2).

    Albergo and Vanden-Eijnden 2022 (arXiv 2209.15571).
    """

    def coefficients(self, t: Tensor) -> Coefficients:
        """See Path.coefficients."""
        half_pi = math.pi / 2
        a, b = torch.sin(half_pi * t), torch.cos(half_pi * t)
        return Coefficients(a=a, b=b, da=half_pi * b, db=-half_pi * a)

    def time_of(self, canonical: Tensor) -> Tensor:
        """See Path.time_of; tan(pi t / 2) = canonical / (1 - canonical)."""
        return torch.atan2(canonical, 1 - canonical) * (2 / math.pi)


@dataclass(frozen=True)
class Vp(Path):
    """Variance preserving diffusion with linear beta, from .1 to 20 by default.

    With u = 1 - t the diffusion time, log a = -u^2 (20 - .1) / 4 - .1 u / 2 and b^2 = 1 - a^2; Song et al.
    2021 (arXiv 2011.13456), eq. 33.

    Raises:
        UserError: unless 0 < beta_min < beta_max.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    def __post_init__(self) -> None:
        _require_rising("vp", "beta_min", self.beta_min, "beta_max", self.beta_max)

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


@dataclass(frozen=True)
class Ve(Path):
    """Variance exploding diffusion, a = 1 and b from 80 down to .002, geometric.

    Song et al. 2021 (arXiv 2011.13456).

    Raises:
        UserError: unless 0 < sigma_min < sigma_max.
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0

    def __post_init__(self) -> None:
        _require_rising("ve", "sigma_min", self.sigma_min, "sigma_max", self.sigma_max)

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


@dataclass(frozen=True)
class Edm(Path):
    """The scaled input of EDM's network, a = 1 / r and b = sigma / r, with r^2 = sigma_data^2 + sigma^2.

    Karras et al. 2022 (arXiv 2206.00364), table 1, c_in; sigma falls as in Ve. Their network's output F is
    the prediction `reverse_v`.

    Raises:
        UserError: unless 0 < sigma_min < sigma_max, and sigma_data is above 0.
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    sigma_data: float = 0.5

    def __post_init__(self) -> None:
        _require_rising("edm", "sigma_min", self.sigma_min, "sigma_max", self.sigma_max)
        if not 0 < self.sigma_data < math.inf:
            raise UserError(f"path edm: sigma_data must be a number above 0, got {self.sigma_data}")

    def coefficients(self, t: Tensor) -> Coefficients:
        """See Path.coefficients."""
        noisy = Ve(self.sigma_min, self.sigma_max).coefficients(t)
        a = (self.sigma_data**2 + noisy.b**2).rsqrt()
        da, db = -noisy.b * noisy.db * a**3, self.sigma_data**2 * noisy.db * a**3
        return Coefficients(a=a, b=noisy.b * a, da=da, db=db, spread=self.sigma_data)

    def time_of(self, canonical: Tensor) -> Tensor:
        """See Path.time_of; sigma is that of Ve."""
        return Ve(self.sigma_min, self.sigma_max).time_of(canonical)


@dataclass(frozen=True)
class BetaTable(Path):
    """The noise levels of a scheduler's beta table, in the names of its scheduler_config.json.

    With alpha_bar[i] the product of 1 - beta up to index i: sigma[i]^2 = 1 / alpha_bar[i] - 1, a^2 + b^2 = 1
    (Ho et al. 2020, arXiv 2006.11239). Own time t is the index (N - 1) (1 - t); log sigma is linear between
    indices. With rescale_betas_zero_snr (Lin et al. 2023, arXiv 2305.08891, algorithm 1) the last alpha_bar
    is 2^-24 instead of 0, as in diffusers. The table is in float32, as those it comes from.

    Raises:
        UserError: for a schedule that does not exist, or numbers that can't be.
    """

    num_train_timesteps: int = 1000
    beta_schedule: str = "linear"
    beta_start: float = 0.0001
    beta_end: float = 0.02
    rescale_betas_zero_snr: bool = False

    def __post_init__(self) -> None:
        if self.beta_schedule not in BETAS:
            raise UserError(unknown("beta_schedule", self.beta_schedule, list(BETAS)))
        if self.num_train_timesteps < 2:
            raise UserError(f"table: num_train_timesteps must be 2 or more, got {self.num_train_timesteps}")
        _require_rising("table", "beta_start", self.beta_start, "beta_end", self.beta_end)
        if self.beta_end >= 1:
            raise UserError(f"table: beta_end must be below 1, got {self.beta_end}")
        if not has_levels(self):
            raise UserError(
                "table: in float32 these betas leave no data at the last index, or no noise at the first; "
                f"lower beta_end {self.beta_end} or num_train_timesteps or raise beta_start {self.beta_start}"
            )

    def coefficients(self, t: Tensor) -> Coefficients:
        """See Path.coefficients."""
        levels = log_sigmas(self).to(t)
        index = (len(levels) - 1) * (1 - t)
        below = index.floor().long().clamp(0, len(levels) - 2)
        rise = levels[below + 1] - levels[below]
        log_sigma = levels[below] + (index - below) * rise
        slope = -(len(levels) - 1) * rise  # of log sigma, by t
        # a = 1 / sqrt(1 + sigma^2) and b = sigma a, without squares that overflow, and without a sigmoid:
        # that of ONNX Runtime (MLAS, float32) is wrong by 1e-3 of a value where that is small
        smaller = torch.exp(-log_sigma.abs())  # of sigma and 1 / sigma
        larger_share = (1 + smaller**2).rsqrt()
        noisy, smaller_share = log_sigma > 0, smaller * larger_share
        a = torch.where(noisy, smaller_share, larger_share)
        b = torch.where(noisy, larger_share, smaller_share)
        return Coefficients(a=a, b=b, da=-a * b**2 * slope, db=b * a**2 * slope)

    def time_of(self, canonical: Tensor) -> Tensor:
        """See Path.time_of; sigma = (1 - canonical) / canonical."""
        levels = log_sigmas(self).to(canonical)
        log_sigma = torch.log((1 - canonical) / canonical).clamp(levels[0], levels[-1])
        below = (torch.searchsorted(levels, log_sigma.contiguous()) - 1).clamp(0, len(levels) - 2)
        index = below + (log_sigma - levels[below]) / (levels[below + 1] - levels[below])
        return (1 - index / (len(levels) - 1)).clamp(0, 1)


def _linear_betas(table: BetaTable) -> Tensor:
    return torch.linspace(table.beta_start, table.beta_end, table.num_train_timesteps)


def _scaled_linear_betas(table: BetaTable) -> Tensor:
    """Linear in the square root; Rombach et al. 2022 (arXiv 2112.10752)."""
    return torch.linspace(table.beta_start**0.5, table.beta_end**0.5, table.num_train_timesteps) ** 2


def _cosine_betas(table: BetaTable) -> Tensor:
    """Alpha_bar along a squared cosine, beta at most .999.

    Nichol and Dhariwal 2021 (arXiv 2102.09672), eq. 17.
    """

    def alpha_bar(u: float) -> float:
        return math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2

    n = table.num_train_timesteps
    return torch.tensor([min(1 - alpha_bar((i + 1) / n) / alpha_bar(i / n), 0.999) for i in range(n)])


BETAS = {
    "linear": _linear_betas,
    "scaled_linear": _scaled_linear_betas,
    "squaredcos_cap_v2": _cosine_betas,
}


@cache
def log_sigmas(table: BetaTable) -> Tensor:
    """Return log sigma at each index of a table, (num_train_timesteps,), float64, increasing."""
    alpha_bar = torch.cumprod(1 - BETAS[table.beta_schedule](table), dim=0)
    if table.rescale_betas_zero_snr:
        root = alpha_bar.sqrt()
        root = (root - root[-1]) * (root[0] / (root[0] - root[-1]))
        alpha_bar = root**2
        alpha_bar[-1] = 2.0**-24
    alpha_bar = alpha_bar.double()
    return ((1 - alpha_bar) / alpha_bar).log() / 2


@cache  # an export makes paths again while it traces, where code can't branch on what a tensor holds
def has_levels(table: BetaTable) -> bool:
    """Return whether all levels of a table are finite: no product of its betas rounds to 0 or 1."""
    return bool(log_sigmas(table).isfinite().all())


PATHS: dict[str, type[Path]] = {
    "linear": Linear,
    "cosine": Cosine,
    "vp": Vp,
    "ve": Ve,
    "edm": Edm,
    "table": BetaTable,
}


def get(path: str | Mapping[str, Any]) -> Path:
    """Return a path by its name, or by a mapping of its name and its options.

    Raises:
        UserError: if there is no such path or option; the message lists those that exist. If an option is not
            of its default's type, or its value can't be.
    """
    options = {"name": path} if isinstance(path, str) else dict(path)
    name = str(options.pop("name", None))
    if name not in PATHS:
        raise UserError(unknown("path", name, list(PATHS)))
    kind = PATHS[name]
    known = list(getattr(kind, "__dataclass_fields__", ()))
    for option in options.keys() - set(known):
        raise UserError(f"path {name}: {unknown('option', option, known or ['none'])}")
    for option, value in options.items():
        wanted = type(getattr(kind, option))
        if type(value) not in ((int, float) if wanted is float else (wanted,)):
            raise UserError(f"path {name}: {option} must be of type {wanted.__name__}, got {value!r}")
    return kind(**options)


def _require_rising(path: str, low: str, lowest: float, high: str, highest: float) -> None:
    if not 0 < lowest < highest < math.inf:
        raise UserError(f"{path}: 0 < {low} < {high} must hold, got {lowest} and {highest}")
