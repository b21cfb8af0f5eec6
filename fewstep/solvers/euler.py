"""Euler: follow the slope at the start of the step. On the canonical path this is DDIM.

A flow map is asked for its average velocity over the step, which makes the step exact.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fewstep.flow import Flow, over_step

if TYPE_CHECKING:
    from torch import Tensor


class Euler:
    """First order, one velocity a step."""

    order = 1
    velocities_per_step = 1
    slopes_kept = 0

    def step(self, flow: Flow, x: Tensor, t: float, t_next: float, carry: Any) -> tuple[Tensor, Any]:
        """See Solver.step."""
        return x + (t_next - t) * over_step(flow, x, t, t_next), None
