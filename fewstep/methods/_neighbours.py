"""Neighbours: the two times of a trajectory at which discrete consistency is compared, and their weight."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fewstep import randomness, spacings
from fewstep.lazy import lazy_imports

if TYPE_CHECKING:
    from torch import Tensor

    from fewstep.flow import ModelFlow

with lazy_imports():
    import torch

LEVELS = (-1.1, 2.0)  # mean and standard deviation of the logarithm of levels; Song and Dhariwal 2023


@dataclass(frozen=True)
class Neighbours:
    """Canonical times, and the weights of what is compared there, each (n,)."""

    t: Tensor
    later: Tensor
    weight: Tensor


def doubled(ends: tuple[int, int], progress: float) -> int:
    """Return a number that doubles from the first to at most the last, after equal parts of the training.

    Song and Dhariwal 2023 (arXiv 2310.14189), as a number of intervals, which are one less than times.
    """
    first, last = ends
    doublings = math.floor(progress * (math.log2(last // first) + 1))
    return min(first * 2**doublings, last)


def uniform(flow: ModelFlow, ends: tuple[int, int], progress: float, keys: Tensor) -> Neighbours:
    """Return ends of a random one of N equal intervals, whose number grows steadily."""
    intervals = round(ends[0] * (ends[1] / ends[0]) ** progress)
    share = randomness.uniforms("train.time", keys)
    t = flow.t_start + (1 - flow.t_start) * (share * intervals).floor() / intervals
    later = t + (1 - flow.t_start) / intervals
    return Neighbours(t, later, torch.ones_like(t))


def ict(flow: ModelFlow, ends: tuple[int, int], progress: float, keys: Tensor) -> Neighbours:
    """Return ends of one of N intervals of the grid of Karras et al. 2022; Song and Dhariwal 2023.

    N is `doubled`, noise levels are log-normal, and the weight is 1 over the difference of the levels.
    """
    intervals = doubled(ends, progress)
    grid = spacings.edm(intervals, start=flow.t_start, end=flow.t_end)
    times = torch.tensor(grid, dtype=torch.float64)
    levels = ((1 - times) / times).clamp(max=spacings.SIGMA_MAX)
    mean, std = LEVELS
    above = 1 - torch.special.ndtr((levels.log() - mean) / std)  # the share of noisier levels
    drawn = above[0] + (above[-1] - above[0]) * randomness.uniforms("train.time", keys).double()
    number = (torch.searchsorted(above, drawn, right=True) - 1).clamp(0, intervals - 1)
    return Neighbours(times[number], times[number + 1], 1 / (levels[number] - levels[number + 1]))


def ect(flow: ModelFlow, ends: tuple[int, int], progress: float, keys: Tensor) -> Neighbours:
    """Return times of a log-normal noise level and of the `next_level`; Geng et al. 2024 (arXiv 2406.14548).

    N is `doubled`, and the weight is 1 over the difference of the levels.
    """
    mean, std = LEVELS
    u = randomness.uniforms("train.time", keys).double()
    level = (mean + std * torch.special.ndtri(u.clamp(min=2.0**-25))).exp()
    if flow.t_start:
        level = level.clamp(max=(1 - flow.t_start) / flow.t_start)
    lower = next_level(level, doubled(ends, progress))
    return Neighbours(1 / (1 + level), 1 / (1 + lower), 1 / (level - lower))


def next_level(level: Tensor, parts: int) -> Tensor:
    """Return the level s - s (1 + 8 sigmoid(-s)) / N, or 0, that a noise level s is compared with, (n,)."""
    return (level - level * (1 + 8 * torch.sigmoid(-level)) / parts).clamp(min=0)


SCHEDULES: dict[str, Callable[[ModelFlow, tuple[int, int], float, Tensor], Neighbours]] = {
    "uniform": uniform,
    "ict": ict,
    "ect": ect,
}
