"""AB2: Adams-Bashforth, extrapolate the slope from this timestep and the last (any step sizes)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fewstep.flow import Flow

if TYPE_CHECKING:
    from torch import Tensor


class Ab2:
    """Second order, one velocity a step; the carry is the last slope and step size."""

    order = 2
    velocities_per_step = 1
    slopes_kept = 1

    def step(self, flow: Flow, x: Tensor, t: float, t_next: float, carry: Any) -> tuple[Tensor, Any]:
        """See Solver.step; Hairer, Norsett and Wanner, Solving ODEs I, section III.5."""
        h, slope = t_next - t, flow(x, t)
        if carry is None:  # the first step has no past
            return x + h * slope, (slope, h)
        last_slope, last_h = carry
        return x + h * (slope + h / (2 * last_h) * (slope - last_slope)), (slope, h)
