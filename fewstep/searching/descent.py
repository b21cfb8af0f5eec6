"""Moving timesteps, one at a time, to where the ends come nearest to the truth."""

from collections.abc import Callable
from functools import partial

from fewstep import solvers
from fewstep.grids import Grid, reach
from fewstep.searching.ends import endpoint_squares, moved_squares
from fewstep.searching.problem import Problem

REACHES = (0.5, 0.25, 0.1, 0.04, 0.015)
"""How far a timestep may move at once, as a part of its way to the next one; from coarse to fine."""
SWEEPS = 4
"""Passes over all timesteps at one reach, at most."""


def descend(problem: Problem, grid: Grid, role: str, count: int) -> Grid:
    """Return `grid` after coarse-to-fine coordinate descent on its mean square endpoint error.

    At each reach, every inner timestep tries a step towards either neighbour, goes on in a direction as long
    as that helps, and the pass over the timesteps is repeated until none moves.

    Args:
        problem: Its flow and noise are used; the grid has its own solver.
        grid: Where to start.
        role: Whose noises the error is of.
        count: How many.
    """
    error = float(endpoint_squares(problem, [grid], role, count).mean())
    problem.progress.start(f"move {grid.steps - 1} timesteps", len(REACHES), unit="pass")
    for part in REACHES:
        for _ in range(SWEEPS):
            before = error
            for timestep in range(1, grid.steps):
                times = partial(_tries, problem, timestep, part)
                grid, error = _settle(problem, grid, timestep, times, error, role, count)
            if error == before:
                break
        problem.progress.advance(rmse=error**0.5)
    return grid


def most_velocities(solver: str, steps: int) -> int:
    """Return how many velocities a noise takes in `descend`, if no timestep moves twice in a row."""
    tries = len(REACHES) * SWEEPS
    ways = sum(timestep - 1 + 2 * (steps - timestep + 1) for timestep in range(1, steps))
    begun = steps if steps > 1 else 0  # twice from the first timestep, once to each later one
    first = solvers.first_velocities(solver) * tries * begun
    return solvers.velocities(solver, steps) + solvers.get(solver).velocities_per_step * tries * ways + first


def _settle(
    problem: Problem,
    grid: Grid,
    timestep: int,
    tries: Callable[[Grid, int], float],
    error: float,
    role: str,
    count: int,
) -> tuple[Grid, float]:
    ways: tuple[int, ...] = (-1, 1)
    while ways := tuple(way for way in ways if tries(grid, way) != grid.times[timestep]):
        times = [tries(grid, way) for way in ways]
        errors = moved_squares(problem, grid, timestep, times, role, count).mean(dim=1).tolist()
        best = min(range(len(ways)), key=errors.__getitem__)
        if not errors[best] < error:
            break
        error, ways = errors[best], (ways[best],)
        grid = moved(grid, timestep, times[best])
    return grid, error


def _tries(problem: Problem, timestep: int, part: float, grid: Grid, way: int) -> float:
    """Return where a timestep would move to: `part` of the way to its neighbour, within the flow's times."""
    here, neighbour = grid.times[timestep], grid.times[timestep + way]
    low, high = 0.0, problem.flow.t_end
    if problem.student is not None:
        low, high = reach(problem.student.grid.times, timestep, problem.student.jitter)
    return min(max(here + part * (neighbour - here), low), max(high, here))


def moved(grid: Grid, timestep: int, time: float) -> Grid:
    """Return `grid` with one timestep elsewhere."""
    return Grid((*grid.times[:timestep], time, *grid.times[timestep + 1 :]), solver=grid.solver)
