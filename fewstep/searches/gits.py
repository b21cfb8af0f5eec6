"""Gits: the dynamic programme over jumps as DDIM makes them on noise levels, later ones weighing more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from fewstep.searching.over_jumps import OverJumps
from fewstep.spacings import Spacing

if TYPE_CHECKING:
    from fewstep.searching.jumps import Jumps


@dataclass(frozen=True, kw_only=True)
class Gits(OverJumps):
    """Chen et al. 2024 (arXiv 2405.11326), with its plain L2 norm.

    Costs are of states y = data + sigma noise, which are the canonical ones over t, so that an early
    jump's error counts for more; the discount weighs against it. An Euler step of y is one here.
    """

    cost: ClassVar[Literal["squared", "plain"]] = "plain"
    discount: float = 1.15
    fine_steps: int = 60
    spacing: Spacing = "edm"
    noises: int = 256

    def priced(self, jumps: Jumps) -> tuple[np.ndarray, np.ndarray | None]:
        """See OverJumps.priced; the error of a jump to t, which should grow like a norm, is divided by t."""
        costs, after = super().priced(jumps)
        to = np.array([t or 1.0 for t in jumps.fine.times])  # nothing jumps to pure noise
        return costs / to, None if after is None else after / to
