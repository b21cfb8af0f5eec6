"""Euler: follow the slope at the start of the step. On the canonical path this is DDIM.

A flow map is asked for its average velocity over the step, which makes the step exact.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fewstep.flow import Flow, velocity_until

if TYPE_CHECKING:
    from torch import Tensor


class Euler:
    """First order, one velocity a step."""

    order = 1
    velocities_per_step = 1
    slopes_kept = 0

    def step(self, flow: Flow, x: Tensor, t: float, t_next: float, carry: Any) -> tuple[Tensor, Any]:
        """See Solver.step."""
        averaged: dict[str, Any] = {"until": t_next} if velocity_until(flow) == "any" else {}
        return x + (t_next - t) * flow(x, t, **averaged), None
