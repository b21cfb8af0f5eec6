"""A flow from data to noise: what shows whether a pair is of that flow."""

import torch
from torch import Tensor

from fewstep.flow import Flow, batch_times, must_know_all_times
from fewstep.grids import Grid
from fewstep.solvers import integrate


class Backwards:
    """A flow run from data (its time 0) to noise (its time 1).

    Where the flow gives no velocity, near an end, the last one it gives is used; on the canonical
    path that is exact for the stretch before t_start.
    """

    t_start, t_end = 0.0, 1.0

    def __init__(self, flow: Flow) -> None:
        self.flow = flow
        self.nfe_per_velocity = flow.nfe_per_velocity

    def __call__(self, x: Tensor, t: Tensor | float, **conditions: Tensor) -> Tensor:
        """See Flow."""
        forward = (1 - batch_times(t, x)).clamp(self.flow.t_start, self.flow.t_end)
        return -self.flow(x, forward, **conditions)


def backwards(grid: Grid) -> Grid:
    """Return the grid that visits the same times from data to noise."""
    times = [1 - t for t in reversed(grid.times)]
    return Grid(tuple(times if times[-1] == 1 else [*times, 1.0]), solver=grid.solver, guidance=grid.guidance)


@torch.no_grad()
def integrate_back(flow: Flow, data: Tensor, grid: Grid, **conditions: Tensor) -> Tensor:
    """Return the noise, (n, *shape), that `flow` takes to `data` when it is followed with `grid`.

    Raises:
        UserError: if the flow has no velocity at each time.
    """
    must_know_all_times(flow, by="the way back to noise")
    return integrate(Backwards(flow), data, backwards(grid), **conditions).x
