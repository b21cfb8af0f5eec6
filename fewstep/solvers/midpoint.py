"""Midpoint: take the slope from the middle of the step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fewstep.flow import Flow

if TYPE_CHECKING:
    from torch import Tensor


class Midpoint:
    """Second order, two velocities a step; never asks for a velocity at the end of the path."""

    order = 2
    velocities_per_step = 2
    slopes_kept = 0

    def step(self, flow: Flow, x: Tensor, t: float, t_next: float, carry: Any) -> tuple[Tensor, Any]:
        """See Solver.step."""
        h = t_next - t
        return x + h * flow(x + h / 2 * flow(x, t), t + h / 2), None
