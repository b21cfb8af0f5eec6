"""Solvers move a state along the canonical flow; one file a solver, found by its name.

A solver's `step(flow, x, t, t_next, carry)` returns the state at t_next and what the next step may
want to know (the carry of multistep solvers; None at first). Its order and its velocities per step
are class data. A solver whose first step, which has no past, asks for more velocities than the others says
how many more: `first_velocities`; for the others that is 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from fewstep import registry, spacings
from fewstep.errors import UserError
from fewstep.finite import IN_NOISE, refuse_not_finite
from fewstep.flow import Flow, WrappedFlow, as_state, equal_steps, only_grid, velocity_until
from fewstep.grids import Grid, reach

if TYPE_CHECKING:
    from torch import Tensor

registry.add_plugins(__name__, __path__)


class Solver(Protocol):
    """What a file of this package defines."""

    order: ClassVar[int]
    """The power of the step size that the endpoint's error falls with."""
    velocities_per_step: ClassVar[int]
    """Velocities asked for in one step."""
    slopes_kept: ClassVar[int]
    """Slopes of earlier steps that the carry holds; 0 for a one-step solver."""

    def step(self, flow: Flow, x: Tensor, t: float, t_next: float, carry: Any) -> tuple[Tensor, Any]:
        """Return the state (batch, *shape) at t_next, and the carry for the next step."""


@dataclass(frozen=True)
class Solution:
    """Where a solver arrived, and what it cost."""

    x: Tensor  # (batch, *shape)
    nfe: int  # network calls, the guided ones counted twice


def get(name: str) -> Solver:
    """Return the solver of that name.

    Raises:
        UserError: if there is none; the message lists those that exist.
    """
    return registry.find("fewstep.solvers", name)()


def first_velocities(name: str) -> int:
    """Return how many velocities more than the others the first step of a solver asks for.

    Raises:
        UserError: if there is no such solver.
    """
    return getattr(get(name), "first_velocities", 0)


def velocities(name: str, steps: int) -> int:
    """Return how many velocities `steps` steps of a solver ask for, at most: the last may be an Euler step.

    Raises:
        UserError: if there is no such solver.
    """
    return get(name).velocities_per_step * steps + first_velocities(name)


def steps_of(name: str, asked: int) -> int | None:
    """Return the steps of a solver that ask for `asked` velocities, as `velocities` counts; None if none do.

    Raises:
        UserError: if there is no such solver.
    """
    steps, rest = divmod(asked - first_velocities(name), get(name).velocities_per_step)
    return None if rest or steps < 1 else steps


def one_step(name: str) -> Solver:
    """Return the solver of that name if its steps remember nothing.

    Raises:
        UserError: if there is none, or it is a multistep solver.
    """
    solver = get(name)
    if solver.slopes_kept:
        raise UserError(f"{name} is a multistep solver, whose steps can't be taken one by one")
    return solver


def for_jumps(name: str) -> Solver:
    """Return the solver of that name if one of its steps, taken alone, is as exact as those of a run.

    That is so if it remembers nothing, or asks at first for what it would have remembered.

    Raises:
        UserError: if there is none, or it is another multistep solver.
    """
    return get(name) if first_velocities(name) else one_step(name)


class CountedFlow(WrappedFlow):
    """A flow that counts its network calls and fixes the conditions."""

    def __init__(self, flow: Flow, conditions: dict[str, Tensor]) -> None:
        super().__init__(flow)
        self.conditions, self.nfe = conditions, 0

    def __call__(self, x: Tensor, t: Tensor | float, **conditions: Any) -> Tensor:
        """See Flow."""
        self.nfe += self.nfe_per_velocity
        return self.flow(x, t, **self.conditions, **conditions).to(x.dtype)


def trajectory(flow: Flow, noise: Tensor, grid: Grid) -> Iterator[Tensor]:
    """Yield the state (batch, *shape) at every timestep of `grid`, the first one included.

    The grid's own solver is used, but a step that ends after the flow's t_end (where, say, turning a data
    prediction into a velocity divides by zero) is an Euler step, whatever its solver would ask for.

    Raises:
        UserError: see `must_fit`; also if there is no such solver.
    """
    must_fit(flow, grid)
    start = as_state(noise) * (1 - grid.times[0])  # the canonical state whose data part is still unknown
    yield start
    for x, _ in walk(flow, start, grid.times, grid.solver):
        yield x


def must_fit(flow: Flow, grid: Grid) -> None:
    """Refuse a grid that asks for a velocity where the flow has none, or for one that it does not have.

    Raises:
        UserError: if the grid starts before the flow can, or its last step starts after the flow's t_end; if
            the flow gives average velocities, but the solver is not Euler, or there are more steps than it
            knows; if it knows the steps of its own grid alone, or equal ones, and these are others.
    """
    if (until := velocity_until(flow)) != "now" and grid.solver != "euler":
        raise UserError(
            "this model gives average velocities, which are for Euler steps; the grid's solver is "
            f"{grid.solver}: set it to euler"
        )
    if until == "data" and grid.steps > 1:
        raise UserError(
            f"this model was trained to jump to data in one step; the grid has {grid.steps}: take 1, or "
            "train a flow map"
        )
    if (own := only_grid(flow)) is not None:
        must_keep_to(*own, grid)
    if (finest := equal_steps(flow)) is not None:
        must_be_equal(grid, finest, start=flow.t_start, end=flow.t_end)
    if grid.times[0] < flow.t_start - 1e-9:
        raise UserError(
            f"the grid starts at {grid.times[0]}, before this model can, at {flow.t_start}; start it there"
        )
    if grid.times[-2] > flow.t_end + 1e-9:
        raise UserError(
            f"the grid's last step starts at {grid.times[-2]}, after the last velocity this model gives, at "
            f"{flow.t_end}; take fewer steps, or end them earlier"
        )


def must_keep_to(own: Grid, jitter: float, grid: Grid) -> None:
    """Refuse a grid that asks a student for what it was not trained for.

    Args:
        own: The student's grid.
        jitter: How far its timesteps moved in training; see ModelConfig.jitter.
        grid: The grid that it is to be sampled with.

    Raises:
        UserError: if the grid has another number of steps, or another solver, or a timestep too far from the
            student's.
    """
    if (grid.steps, grid.solver) != (own.steps, own.solver):
        raise UserError(
            f"this student was trained for its own {own.steps} steps of {own.solver} alone; the grid has "
            f"{grid.steps} of {grid.solver}: take the student's grid, or its teacher"
        )
    for timestep, t in enumerate(grid.times):
        first, last = reach(own.times, timestep, jitter)
        if not first - 1e-9 <= t <= last + 1e-9:
            near = f"{first:g}" if first == last else f"{first:g} to {last:g}"
            raise UserError(
                f"this student was trained at its own timesteps alone; the grid has {t} where the student's "
                f"has {near}: take that grid, or its teacher"
            )


def must_be_equal(grid: Grid, finest: int, *, start: float, end: float) -> None:
    """Refuse a grid that asks a student of equal steps for others.

    Args:
        grid: The grid that it is to be sampled with.
        finest: ModelConfig.equal_steps.
        start: The flow's t_start.
        end: Its t_end.

    Raises:
        UserError: if the steps are not equal, or their number does not divide `finest`.
    """
    equal = spacings.uniform(grid.steps, start=start, end=end)
    unequal = any(abs(t - other) > 1e-6 for t, other in zip(grid.times, equal, strict=True))
    if unequal or not spacings.dividing(finest, [grid.steps]):
        raise UserError(
            f"this student was trained for equal steps alone; the grid has {grid.steps}"
            f"{', of other lengths' if unequal else ''}: take {spacings.all_dividing(finest)} equal ones"
        )


def walk(
    flow: Flow, x: Tensor, times: Sequence[float], solver: str, carry: Any = None
) -> Iterator[tuple[Tensor, Any]]:
    """Yield the state and the carry after each step along `times`, from state x at the first of them."""
    stepper, euler = get(solver), get("euler")
    for t, t_next in pairwise(times):
        x, carry = (stepper if t_next <= flow.t_end else euler).step(flow, x, t, t_next, carry)
        yield x, carry


def integrate(flow: Flow, noise: Tensor, grid: Grid, **conditions: Tensor) -> Solution:
    """Return the samples, (batch, *shape), that `grid` makes of `noise`, and the calls it took.

    Raises:
        UserError: see `must_fit`; also if there is no such solver, or the flow refuses the conditions.
        NotFiniteError: if a state is not finite; the message has the step, and the time.
    """
    counted = CountedFlow(flow, conditions)
    for step, (x, t) in enumerate(zip(trajectory(counted, noise, grid), grid.times, strict=True)):
        where = f" after step {step} of {grid.steps}" if step else IN_NOISE
        refuse_not_finite("state", x, t, where)
    return Solution(x, counted.nfe)
