"""The cheapest way from the first knot to the last in exactly m jumps, for all m in one table."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fewstep.searches._problem import check_budgets

ROWS = 128  # whose sums stay in a core's cache


class Route(NamedTuple):
    """Knots to jump between, first and last included, and what the jumps cost together."""

    knots: tuple[int, ...]
    cost: float


def best_routes(costs: np.ndarray, budgets: Sequence[int], *, discount: float = 1.0) -> dict[int, Route]:
    """Return the cheapest route of exactly as many jumps as each budget says.

    Bellman's recursion on the cost to go: to_go[m, j] = min over i of costs[j, i] + discount
    to_go[m - 1, i], with to_go[1, j] = costs[j, K]. The choices are kept, not found again by comparing
    floats. Of equally cheap routes the one with the earlier knots is taken.

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
    to_go = costs[:, -1]
    choices: list[np.ndarray] = []  # choices[m - 2][j]: the next knot when m jumps are left at j
    found = {1: float(to_go[0])}
    for jumps in range(2, max(budgets) + 1):
        choice, to_go = _next_knots(costs, discount * to_go)
        choices.append(choice)
        found[jumps] = float(to_go[0])
    return {budget: Route(_backtrack(choices[: budget - 1], steps), found[budget]) for budget in budgets}


def best_routes_after(
    costs: np.ndarray, after: np.ndarray, budgets: Sequence[int], *, discount: float = 1.0
) -> dict[int, Route]:
    """Return the cheapest routes when a jump's cost depends on the knot before it too.

    The same recursion over pairs of knots: to_go[m, i, j] = min over k of after[i, j, k] + discount
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
    choices: list[np.ndarray] = []  # choices[m - 2][i, j]: the next knot when m jumps are left
    found = {1: Route((0, steps), float(costs[0, -1]))}
    for jumps in range(2, max(budgets) + 1):
        starts = costs[0] + discount * to_go[0]
        knots = [0, int(starts.argmin())]
        for choice in reversed(choices):
            knots.append(int(choice[knots[-2], knots[-1]]))
        found[jumps] = Route((*knots, steps), float(starts.min()))
        ways = after + discount * to_go  # (i, j, k)
        choices.append(ways.argmin(axis=2))
        to_go = np.take_along_axis(ways, choices[-1][..., None], axis=2)[..., 0]
    return {budget: found[budget] for budget in budgets}


def _next_knots(costs: np.ndarray, to_go: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return for each knot the cheapest next one, and the cost to go by way of it, (K + 1,) each.

    Jumps lead forwards, so a band of rows needs the columns from its first row on.
    """
    knots = len(costs)
    room, choice, cheapest = np.empty((ROWS, knots)), np.empty(knots, dtype=np.int64), np.empty(knots)
    for first in range(0, knots, ROWS):
        rows = slice(first, min(first + ROWS, knots))
        ways = room[: rows.stop - first, : knots - first]
        np.add(costs[rows, first:], to_go[first:], out=ways)
        best = ways.argmin(axis=1)
        choice[rows], cheapest[rows] = first + best, ways[np.arange(len(ways)), best]
    return choice, cheapest


def _backtrack(choices: Sequence[np.ndarray], last: int) -> tuple[int, ...]:
    knots = [0]
    for choice in reversed(choices):
        knots.append(int(choice[knots[-1]]))
    return (*knots, last)
