"""How far from the truth a grid ends: the error that a search is for.

The truth is where a fine run of the same flow, or of the flow that it was taught, takes the same noise, so no
data is needed, and two grids are compared noise by noise.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from fewstep import solvers
from fewstep.flow import Flow
from fewstep.grids import Grid
from fewstep.searching.problem import Problem
from fewstep.solvers import CountedFlow, integrate, walk


def ends(problem: Problem, role: str, count: int) -> list[Tensor]:
    """Return where the fine run takes the noises of a role, batch by batch, each (n, *shape)."""
    source = replace(problem, flow=problem.followed)
    fine = source.spaced("uniform", problem.truth_steps, solver="heun")
    found = partial(_end, fine)
    return problem.once(
        ("ends", role, count), lambda: list(source.each(found, role, count, label=f"truth, to {role}"))
    )


def endpoint_squares(
    problem: Problem, asked: Sequence[Grid], role: str, count: int, *, label: str | None = None
) -> Tensor:
    """Return the mean square error, over dimensions, of each grid's end: float64 (grids, noises)."""
    truth = ends(problem, role, count)
    parts = problem.each(partial(_squares, tuple(asked)), role, count, beside=truth, label=label)
    return torch.cat(list(parts), dim=1)


def moved_squares(
    problem: Problem, grid: Grid, timestep: int, times: Sequence[float], role: str, count: int
) -> Tensor:
    """Return the mean square errors, (times, noises), with one timestep of `grid` at each of `times`."""
    truth = ends(problem, role, count)
    parts = problem.each(partial(_moved, grid, timestep, tuple(times)), role, count, beside=truth)
    return torch.cat(list(parts), dim=1)


def velocities_of_ends(problem: Problem, count: int, *, grids: int) -> int:
    """Return the velocities that the truth for `count` noises takes, and as many grids at every budget."""
    each = sum(solvers.velocities(problem.solver, steps) for steps in problem.budgets)
    return count * (2 * problem.truth_steps + grids * each)


def baseline(problem: Problem, budget: int) -> tuple[str, Grid]:
    """Return the grid that any other should beat, and its name: equal steps, or those of a student."""
    if problem.student is not None:
        return "own", problem.student.grid
    return "uniform", problem.spaced("uniform", budget, solver=problem.solver)


@torch.no_grad()
def _end(fine: Grid, flow: Flow, noise: Tensor, conditions: dict[str, Tensor]) -> Tensor:
    return integrate(flow, noise, fine, **conditions).x


@torch.no_grad()
def _squares(
    asked: tuple[Grid, ...], flow: Flow, noise: Tensor, conditions: dict[str, Tensor], truth: Tensor
) -> Tensor:
    return torch.stack([_far(integrate(flow, noise, grid, **conditions).x, truth) for grid in asked])


@torch.no_grad()
def _moved(
    grid: Grid,
    timestep: int,
    times: tuple[float, ...],
    flow: Flow,
    noise: Tensor,
    conditions: dict[str, Tensor],
    truth: Tensor,
) -> Tensor:
    """Walk once to the timestep before the one that moves, and from there along each of the grids."""
    counted = CountedFlow(flow, conditions)
    here = deque([(noise * (1 - grid.times[0]), None)], maxlen=1)
    here.extend(walk(counted, here[0][0], grid.times[:timestep], grid.solver))
    x, carry = here.pop()
    errors = []
    for time in times:
        way = (grid.times[timestep - 1], time, *grid.times[timestep + 1 :])
        end, _ = deque(walk(counted, x, way, grid.solver, carry), maxlen=1).pop()
        errors.append(_far(end, truth))
    return torch.stack(errors)


def _far(end: Tensor, truth: Tensor) -> Tensor:
    return (end - truth).flatten(1).double().square().mean(dim=1).cpu()
