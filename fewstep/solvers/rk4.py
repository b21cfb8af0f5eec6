"""RK4: the classical Runge-Kutta rule."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fewstep.flow import Flow

if TYPE_CHECKING:
    from torch import Tensor


class Rk4:
    """Fourth order, four velocities a step."""

    order = 4
    velocities_per_step = 4
    slopes_kept = 0

    def step(self, flow: Flow, x: Tensor, t: float, t_next: float, carry: Any) -> tuple[Tensor, Any]:
        """See Solver.step."""
        h = t_next - t
        k1 = flow(x, t)
        k2 = flow(x + h / 2 * k1, t + h / 2)
        k3 = flow(x + h / 2 * k2, t + h / 2)
        k4 = flow(x + h * k3, t_next)
        return x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4), None
