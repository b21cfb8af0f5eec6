"""heun_pc: Heun with one velocity a step; it starts with the slope that the last step ended with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fewstep.flow import Flow

if TYPE_CHECKING:
    from torch import Tensor


class HeunPc:
    """Second order, one velocity a step; the carry is the slope at the predicted state of this timestep.

    The pseudo corrector of FlowTurbo, Zhao et al. 2024 (arXiv 2409.18128): the corrected state gets no
    velocity of its own. On equal steps the predicted states are those of AB2, which has no corrector; on
    others this weighs slopes by this step alone, AB2 also by the size of the last.
    """

    order = 2
    velocities_per_step = 1
    first_velocities = 1
    slopes_kept = 1

    def step(self, flow: Flow, x: Tensor, t: float, t_next: float, carry: Any) -> tuple[Tensor, Any]:
        """See Solver.step."""
        h = t_next - t
        slope = flow(x, t) if carry is None else carry
        predicted = flow(x + h * slope, t_next)
        return x + h / 2 * (slope + predicted), predicted
