"""Spacings: timesteps in closed form, from where a flow starts to data.

A canonical time t is the noise level sigma = (1 - t) / t of EDM and VE, and half of its log-SNR is
-ln sigma. Where levels are spaced, the first of them is that of `start`; from pure noise, whose level
is infinite, it is `sigma_max` and the grid still starts at 0. The last level is `sigma_min`, or that
of `end` if it is noisier, and data follows it.
"""

import math
from collections.abc import Callable, Iterable
from typing import Literal

from fewstep.errors import UserError

SIGMA_MAX, SIGMA_MIN = 80.0, 0.002  # the defaults of EDM


def uniform(steps: int, *, start: float = 0.0, end: float = 1.0) -> tuple[float, ...]:
    """Return equal steps in canonical time from `start` to 1.

    Where the last would start after `end`, all inner timesteps move towards `start` in proportion.

    Raises:
        UserError: if steps is below 1.
    """
    _refuse_none(steps)
    inner = [start + (1 - start) * i / steps for i in range(1, steps)]
    return (start, *within(inner, start, end), 1.0)


def dividing(finest: int | None, numbers: Iterable[int]) -> tuple[int, ...]:
    """Return those numbers of equal steps that a model takes; `finest` is its ModelConfig.equal_steps."""
    return tuple(number for number in numbers if finest is None or finest % number == 0)


def all_dividing(finest: int) -> str:
    """Return all numbers that divide `finest`, for messages: 1, 2, 4 or 8."""
    *others, last = map(str, dividing(finest, range(1, finest + 1)))
    return f"{', '.join(others)} or {last}" if others else last


def edm(
    steps: int,
    *,
    start: float = 0.0,
    end: float = 1.0,
    rho: float = 7.0,
    sigma_min: float = SIGMA_MIN,
    sigma_max: float = SIGMA_MAX,
) -> tuple[float, ...]:
    """Return equal steps in sigma^(1 / rho), rho above 0; Karras et al. 2022 (arXiv 2206.00364), eq. 5.

    Raises:
        UserError: if steps is below 1.
    """
    return _spaced_levels(steps, start, end, sigma_min, sigma_max, lambda s: s ** (1 / rho), lambda u: u**rho)


def log_snr(
    steps: int,
    *,
    start: float = 0.0,
    end: float = 1.0,
    sigma_min: float = SIGMA_MIN,
    sigma_max: float = SIGMA_MAX,
) -> tuple[float, ...]:
    """Return equal steps in the logarithm of sigma; Lu et al. 2022 (arXiv 2206.00927).

    Raises:
        UserError: if steps is below 1.
    """
    return _spaced_levels(steps, start, end, sigma_min, sigma_max, math.log, math.exp)


def tangent(steps: int, *, start: float = 0.0, end: float = 1.0, scale: float = 1.0) -> tuple[float, ...]:
    """Return t_i = 1 / (1 + scale tan(angle_i)) with equal steps of the angle, down to 0.

    Where the last of them would be after `end`, all inner ones are moved towards `start` in proportion.

    For data of an isotropic Gaussian with standard deviation `scale` no Euler steps end nearer to it;
    Sabour et al. 2024 (arXiv 2404.14507).

    Raises:
        UserError: if steps is below 1.
    """
    _refuse_none(steps)
    first = math.pi / 2 if start == 0 else math.atan((1 - start) / start / scale)
    inner = [1 / (1 + scale * math.tan(first * (1 - i / steps))) for i in range(1, steps)]
    return (start, *within(inner, start, end), 1.0)


def within(inner: list[float], start: float, end: float) -> list[float]:
    """Return increasing times moved towards `start`, in proportion, so that none is after `end`."""
    if not inner or inner[-1] <= end:
        return inner
    return [*(start + (t - start) * (end - start) / (inner[-1] - start) for t in inner[:-1]), end]


Spacing = Literal["uniform", "edm", "log_snr", "tan"]
"""The names of spacings in settings."""
SPACINGS: dict[str, Callable[..., tuple[float, ...]]] = {
    "uniform": uniform,
    "edm": edm,
    "log_snr": log_snr,
    "tan": tangent,
}


def _spaced_levels(
    steps: int,
    start: float,
    end: float,
    sigma_min: float,
    sigma_max: float,
    there: Callable[[float], float],
    back: Callable[[float], float],
) -> tuple[float, ...]:
    _refuse_none(steps)
    noisiest = there((1 - start) / start if start else sigma_max)
    cleanest = there(max(sigma_min, (1 - end) / end))
    levels = (back(noisiest + (cleanest - noisiest) * i / (steps - 1)) for i in range(1, steps))
    return (start, *(min(1 / (1 + level), end) for level in levels), 1.0)


def _refuse_none(steps: int) -> None:
    if steps < 1:
        raise UserError(f"a grid needs at least one step, got {steps}")
