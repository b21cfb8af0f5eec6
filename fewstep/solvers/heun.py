"""Heun: average the slopes at both ends of the step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fewstep.flow import Flow

if TYPE_CHECKING:
    from torch import Tensor


class Heun:
    """Second order, two velocities a step."""

    order = 2
    velocities_per_step = 2
    slopes_kept = 0

    def step(self, flow: Flow, x: Tensor, t: float, t_next: float, carry: Any) -> tuple[Tensor, Any]:
        """See Solver.step."""
        h = t_next - t
        slope = flow(x, t)
        return x + h / 2 * (slope + flow(x + h * slope, t_next)), None
