"""Which number a network is given as its time; each is a function of its path's own time t, (batch,)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from fewstep.paths import Path


def _log_sigma(path: Path, t: Tensor) -> Tensor:
    c = path.coefficients(t)
    return c.b.log() - c.a.log()


NETWORK_TIMES: dict[str, Callable[[Path, Tensor], Tensor]] = {
    "t": lambda path, t: t,
    # time from data to noise; times N - 1 it is the index of a table of N noise levels
    "1-t": lambda path, t: 1 - t,
    "sigma": lambda path, t: _log_sigma(path, t).exp(),
    "log_sigma": _log_sigma,  # EDM gives its network a quarter of it; Karras et al. 2022, table 1
}
OF_A_PATH = ("t", "1-t")
"""Those that are a path's own time; the others are noise levels."""
RATE = 4.0
"""How fast sigma = (1 - t) / t, and its logarithm, fall in the middle of canonical times t."""


def rate(time: str, time_scale: float) -> float:
    """Return by how much what a network is given changes in a unit of time.

    Of noise levels and their logarithms that is the rate in the middle of canonical times.
    """
    return time_scale if time in OF_A_PATH else RATE * time_scale
