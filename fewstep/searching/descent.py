"""Moving knots, one at a time, to where the ends come nearest to the truth."""

from collections.abc import Callable
from functools import partial

from fewstep.grids import Grid, reach
from fewstep.searching.ends import endpoint_squares, moved_squares
from fewstep.searching.problem import Problem

REACHES = (0.5, 0.25, 0.1, 0.04, 0.015)
"""How far a knot may move at once, as a part of its way to the next one; from coarse to fine."""
SWEEPS = 4
"""Passes over all knots at one reach, at most."""


def descend(problem: Problem, grid: Grid, role: str, count: int) -> Grid:
    """Return `grid` after coarse-to-fine coordinate descent on its mean square endpoint error.

    At each reach, every inner knot tries a step towards either neighbour, goes on in a direction as long
    as that helps, and the pass over the knots is repeated until none moves.

    Args:
        problem: Its flow and noise are used; the grid has its own solver.
        grid: Where to start.
        role: Whose noises the error is of.
        count: How many.
    """
    error = float(endpoint_squares(problem, [grid], role, count).mean())
    problem.progress.start(f"move {grid.steps - 1} knots", len(REACHES), unit="reach")
    for part in REACHES:
        for _ in range(SWEEPS):
            before = error
            for knot in range(1, grid.steps):
                times = partial(_tries, problem, knot, part)
                grid, error = _settle(problem, grid, knot, times, error, role, count)
            if error == before:
                break
        problem.progress.advance(rmse=error**0.5)
    return grid


def most_steps(steps: int) -> int:
    """Return how many solver steps a noise takes in `descend`, if no knot moves twice in a row."""
    ways = sum(knot - 1 + 2 * (steps - knot + 1) for knot in range(1, steps))
    return steps + len(REACHES) * SWEEPS * ways


def _settle(
    problem: Problem,
    grid: Grid,
    knot: int,
    tries: Callable[[Grid, int], float],
    error: float,
    role: str,
    count: int,
) -> tuple[Grid, float]:
    ways: tuple[int, ...] = (-1, 1)
    while ways := tuple(way for way in ways if tries(grid, way) != grid.times[knot]):
        times = [tries(grid, way) for way in ways]
        errors = moved_squares(problem, grid, knot, times, role, count).mean(dim=1).tolist()
        best = min(range(len(ways)), key=errors.__getitem__)
        if not errors[best] < error:
            break
        error, ways = errors[best], (ways[best],)
        grid = moved(grid, knot, times[best])
    return grid, error


def _tries(problem: Problem, knot: int, part: float, grid: Grid, way: int) -> float:
    """Return where a knot would move to: `part` of the way to its neighbour, where there are velocities."""
    here, neighbour = grid.times[knot], grid.times[knot + way]
    low, high = 0.0, problem.flow.t_end
    if problem.student is not None:
        low, high = reach(problem.student.grid.times, knot, problem.student.jitter)
    return min(max(here + part * (neighbour - here), low), max(high, here))


def moved(grid: Grid, knot: int, time: float) -> Grid:
    """Return `grid` with one knot elsewhere."""
    return Grid((*grid.times[:knot], time, *grid.times[knot + 1 :]), solver=grid.solver)
