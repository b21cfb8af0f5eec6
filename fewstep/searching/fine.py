"""Fine trajectories, as the little that step costs need of them: how their velocity bends.

With velocities v_i at the timesteps t_i of a fine grid, h_i = t_{i+1} - t_i, a trajectory is given by

    e_i = v_i - v_{i-1}                 the increment at the inner timestep i, and
    d_i = x_{i+1} - x_i - h_i v_i       what a fine step adds to its tangent: nothing for Euler.

d_i is integrated by itself, along the tangent, so that float32 does not lose it in the difference.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from fewstep import solvers
from fewstep.flow import Flow, velocity_until
from fewstep.grids import Grid
from fewstep.solvers import CountedFlow


@dataclass(frozen=True)
class Bends:
    """How the trajectories of one batch bend."""

    increments: Tensor  # (n, K - 1, dimensions), e_i
    residuals: Tensor | None  # (n, K, dimensions), d_i; None if the fine solver is Euler


class AlongTangent:
    """The flow as seen by who moves from (x, t) with velocity v: the field of the deviation y.

    A Runge-Kutta step from y = 0 is the step from x less its tangent, without their cancellation.
    """

    nfe_per_velocity = 1

    def __init__(self, flow: Flow, x: Tensor, t: float, velocity: Tensor, conditions: dict) -> None:
        self.flow, self.x, self.t, self.velocity, self.conditions = flow, x, t, velocity, conditions
        self.t_start, self.t_end = flow.t_start, flow.t_end

    def __call__(self, x: Tensor, t: Tensor | float, **conditions: Tensor) -> Tensor:
        """See Flow; x is the deviation, and at the start of the step nothing is asked of the flow."""
        if t == self.t:
            return torch.zeros_like(x)
        return self.flow(self.x + (t - self.t) * self.velocity + x, t, **self.conditions) - self.velocity


class Known:
    """A flow that answers at once at time `t`, where its velocity is known."""

    nfe_per_velocity = 1

    def __init__(self, flow: Flow, t: float, velocity: Tensor, conditions: dict) -> None:
        self.flow, self.t, self.velocity, self.conditions = flow, t, velocity, conditions
        self.t_start, self.t_end = flow.t_start, flow.t_end

    def __call__(self, x: Tensor, t: Tensor | float, **conditions: Tensor) -> Tensor:
        """See Flow."""
        return self.velocity if t == self.t else self.flow(x, t, **self.conditions)


def starting(
    flow: Flow, t: float, conditions: dict[str, Tensor], velocity: Callable[[], Tensor]
) -> CountedFlow | Known:
    """Return a flow for steps from time `t`, where `velocity` gives the one that Euler and AB2 start with.

    That of a flow map depends on where a step ends, so it is asked for each.
    """
    if velocity_until(flow) == "any":
        return CountedFlow(flow, conditions)
    return Known(flow, t, velocity(), conditions)


def steps_along(
    flow: Flow, grid: Grid, noise: Tensor, conditions: dict[str, Tensor]
) -> Iterator[tuple[Tensor, Tensor | None, Tensor]]:
    """Yield for each fine step the velocity it starts with, what it adds to its tangent, and where it ends.

    The second is d_i, None for Euler.

    A step that ends after the flow's t_end is an Euler step, as in fewstep.solvers.trajectory.
    """
    stepper = solvers.one_step(grid.solver)
    x = noise * (1 - grid.times[0])
    for t, t_next in pairwise(grid.times):
        velocity = flow(x, t, **conditions)
        residual = None
        if grid.solver != "euler":
            residual = torch.zeros_like(x)
            if t_next <= flow.t_end:
                tangent = AlongTangent(flow, x, t, velocity, conditions)
                residual, _ = stepper.step(tangent, residual, t, t_next, None)
        x = torch.add(x, velocity, alpha=t_next - t)
        x = x if residual is None else x + residual
        yield velocity, residual, x


def states_along(
    flow: Flow, grid: Grid, noise: Tensor, conditions: dict[str, Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    """Return states at all timesteps of `grid` and velocities at all but the last, each (n, *shape)."""
    states, velocities = [noise * (1 - grid.times[0])], []
    for velocity, _, x in steps_along(flow, grid, noise, conditions):
        velocities.append(velocity)
        states.append(x)
    return states, velocities


def bends_of(flow: Flow, grid: Grid, noise: Tensor, conditions: dict[str, Tensor]) -> Bends:
    """Return how the trajectories from `noise`, (n, *shape), bend; memory is that of this batch alone."""
    n, dimensions = len(noise), noise[0].numel()
    increments = noise.new_empty(n, grid.steps - 1, dimensions)
    residuals = None if grid.solver == "euler" else noise.new_empty(n, grid.steps, dimensions)
    last = None
    for i, (velocity, residual, _) in enumerate(steps_along(flow, grid, noise, conditions)):
        if last is not None:
            torch.sub(velocity.flatten(1), last.flatten(1), out=increments[:, i - 1])
        if residuals is not None and residual is not None:
            residuals[:, i] = residual.flatten(1)
        last = velocity
    return Bends(increments, residuals)
