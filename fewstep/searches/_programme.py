"""The cheapest way from the first knot to the last in exactly m jumps, for all m in one table."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fewstep.errors import UserError


class Route(NamedTuple):
    """Knots to jump between, first and last included, and what the jumps cost together."""

    knots: tuple[int, ...]
    cost: float


def check_budgets(budgets: Sequence[int], steps: int) -> None:
    """Refuse a budget that a fine grid can't be cut into.

    Args:
        budgets: Numbers of jumps.
        steps: Steps of the fine grid.

    Raises:
        UserError: naming the first such budget.
    """
    for budget in budgets:
        if not 1 <= budget <= steps:
            raise UserError(
                f"budget {budget} does not fit a fine grid of {steps} steps; "
                f"ask for 1 to {steps} steps or search on a finer grid"
            )


def best_routes(costs: np.ndarray, budgets: Sequence[int]) -> dict[int, Route]:
    """Return the cheapest route of exactly as many jumps as each budget says.

    Bellman's recursion on the cost to go: to_go[m, j] = min over i of costs[j, i] + to_go[m - 1, i],
    with to_go[1, j] = costs[j, K]. The choices are kept, not found again by comparing floats. Of
    equally cheap routes the one with the earlier knots is taken.

    Args:
        costs: (K + 1, K + 1); [j, k] is the cost of a jump from j to k, inf unless j < k.
        budgets: Numbers of jumps, each from 1 to K.

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
    for jumps in range(2, max(budgets, default=1) + 1):
        ways = costs + to_go  # (from, to)
        choices.append(ways.argmin(axis=1))
        to_go = ways.min(axis=1)
        found[jumps] = float(to_go[0])
    return {budget: Route(_backtrack(choices[: budget - 1], steps), found[budget]) for budget in budgets}


def _backtrack(choices: Sequence[np.ndarray], last: int) -> tuple[int, ...]:
    knots = [0]
    for choice in reversed(choices):
        knots.append(int(choice[knots[-1]]))
    return (*knots, last)
