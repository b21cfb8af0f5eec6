"""The cheapest way from the first timestep to the last in exactly m jumps, for all m in one table."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fewstep.searching.problem import check_budgets

ROWS = 128  # of a band; their sums stay in a core's cache


class Route(NamedTuple):
    """Timesteps to jump between, first and last included, and what the jumps cost together."""

    timesteps: tuple[int, ...]
    cost: float


def best_routes(costs: np.ndarray, budgets: Sequence[int], *, discount: float = 1.0) -> dict[int, Route]:
    """Return the cheapest route of exactly as many jumps as each budget says.

    Bellman's recursion on the cost to go: to_go[m, j] = min over i of costs[j, i] + discount
    to_go[m - 1, i], with to_go[1, j] = costs[j, K]. The choices are kept, not found again by comparing
    floats. Of equally cheap routes the one with the earlier timesteps is taken.

    Args:
        costs: (K + 1, K + 1); [j, k] is the cost of a jump from j to k, inf unless j < k.
        budgets: Numbers of jumps, each from 1 to K.
        discount: What the jumps still to go weigh; above 1, later ones weigh more.

    Returns:
        The route of each budget.

    Raises:
        UserError: if a budget is out of that range.
    """
    steps = len(costs) - 1
    check_budgets(budgets, steps)
    bands = _bands(costs)
    most, to_go = max(budgets), costs[:, -1]
    next_timesteps = np.zeros((most + 1, steps + 1), dtype=np.int64)  # [m, j]: from j with m jumps left
    found = {1: float(to_go[0])}
    for jumps in range(2, most + 1):
        later, to_go = discount * to_go, np.empty(steps + 1)
        for band in bands:
            np.add(band.costs, later[band.first :], out=band.ways)
            best = band.ways.argmin(axis=1)
            next_timesteps[jumps, band.rows] = best + band.first
            to_go[band.rows] = band.ways[band.each, best]
        found[jumps] = float(to_go[0])
    return {
        budget: Route(_follow(next_timesteps[2 : budget + 1], steps), found[budget]) for budget in budgets
    }


def best_routes_after(
    costs: np.ndarray, after: np.ndarray, budgets: Sequence[int], *, discount: float = 1.0
) -> dict[int, Route]:
    """Return the cheapest routes when a jump's cost depends on the timestep before it too.

    The same recursion over pairs of timesteps: to_go[m, i, j] = min over k of after[i, j, k] + discount
    to_go[m - 1, j, k].

    Args:
        costs: (K + 1, K + 1); the cost of a first jump, which nothing came before.
        after: (K + 1, K + 1, K + 1); [i, j, k] is the cost of a jump from j to k after one from i to j.
        budgets: Numbers of jumps, each from 1 to K.
        discount: What the jumps still to go weigh.

    Returns:
        The route of each budget.

    Raises:
        UserError: if a budget is out of that range.
    """
    steps = len(costs) - 1
    check_budgets(budgets, steps)
    to_go = after[:, :, -1]
    choices: list[np.ndarray] = []  # choices[m - 2][i, j]: the next timestep when m jumps are left
    found = {1: Route((0, steps), float(costs[0, -1]))}
    for jumps in range(2, max(budgets) + 1):
        starts = costs[0] + discount * to_go[0]
        timesteps = [0, int(starts.argmin())]
        for choice in reversed(choices):
            timesteps.append(int(choice[timesteps[-2], timesteps[-1]]))
        found[jumps] = Route((*timesteps, steps), float(starts.min()))
        ways = after + discount * to_go  # (i, j, k)
        choices.append(ways.argmin(axis=2))
        to_go = np.take_along_axis(ways, choices[-1][..., None], axis=2)[..., 0]
    return {budget: found[budget] for budget in budgets}


class Band(NamedTuple):
    """Some rows of the costs, from the column of their first row on: jumps lead forwards."""

    first: int
    rows: slice
    costs: np.ndarray  # (rows, columns), a view
    ways: np.ndarray  # (rows, columns), room for sums
    each: np.ndarray  # 0, 1, ... rows - 1


def _bands(costs: np.ndarray) -> list[Band]:
    bands = []
    for first in range(0, len(costs), ROWS):
        rows = slice(first, min(first + ROWS, len(costs)))
        part = costs[rows, first:]
        bands.append(Band(first, rows, part, np.empty(part.shape), np.arange(len(part))))
    return bands


def _follow(next_timesteps: np.ndarray, last: int) -> tuple[int, ...]:
    """Return the timesteps from the first on; rows of `next_timesteps` are by jumps left, fewest first."""
    timesteps = [0]
    for row in next_timesteps[::-1]:
        timesteps.append(int(row[timesteps[-1]]))
    return (*timesteps, last)
