"""BellmanPlain: the dynamic programme of BOSS over the mean norm of what jumps are off by, not squared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from fewstep.searching.over_jumps import OverJumps


@dataclass(frozen=True, kw_only=True)
class BellmanPlain(OverJumps):
    """The search of BOSS (arXiv 2312.16414) with the L2 norm of GITS (arXiv 2405.11326) as cost.

    A few trajectories that bend sharply weigh less than under squares.
    """

    cost: ClassVar[Literal["squared", "plain"]] = "plain"
