"""The dynamic programme of a step search: three plain loops, and fewstep's table for all budgets.

Run `python -m benchmarks.search_programme`. At 100 fine steps the loops find one budget, the largest; at
1000 they run once for each budget. Both sides get the same costs, those of the exact flow to a Gaussian, and
must find equal routes. The loops index the array that they are given, and once more nested
lists, Python's own fastest.
"""

from functools import partial
from time import perf_counter
from typing import Any

import numpy as np

from fewstep.searching.programme import best_routes

BUDGETS, REPEATS = range(1, 17), 300


def gaussian_costs(steps: int) -> np.ndarray:
    """Return the squared error of Euler jumps on the flow to N(0, 1) in one dimension."""
    t = np.linspace(0, 1, steps + 1)
    state = np.sqrt((1 - t) ** 2 + t**2)
    slope = (2 * t - 1) / state
    costs = (state[None, :] - state[:, None] - (t[None, :] - t[:, None]) * slope[:, None]) ** 2
    costs[np.tril_indices(steps + 1)] = np.inf
    return costs


def three_loops(costs: Any, budget: int) -> tuple[int, ...]:
    """Return the cheapest route of `budget` jumps, by Bellman's recursion written down as it is."""
    last = len(costs) - 1
    to_go, choices = [costs[j][last] for j in range(last + 1)], []
    for _ in range(2, budget + 1):
        longer, choice = [float("inf")] * (last + 1), [0] * (last + 1)
        for j in range(last):
            for k in range(j + 1, last):
                cost = costs[j][k] + to_go[k]
                if cost < longer[j]:
                    longer[j], choice[j] = cost, k
        to_go = longer
        choices.append(choice)
    timesteps = [0]
    for choice in reversed(choices):
        timesteps.append(choice[timesteps[-1]])
    return (*timesteps, last)


def loop_for_each(costs: Any, budgets: list[int]) -> None:
    for budget in budgets:
        three_loops(costs, budget)


def seconds(work: Any, repeats: int) -> float:
    """Return the time of the fastest of some runs."""
    times = []
    for _ in range(repeats):
        began = perf_counter()
        work()
        times.append(perf_counter() - began)
    return min(times)


def compare(steps: int, budgets: list[int]) -> None:
    array = gaussian_costs(steps)
    routes = best_routes(array, BUDGETS)
    ours = seconds(lambda: best_routes(array, BUDGETS), REPEATS if steps < 500 else 10)
    what = f"budget {budgets[0]}" if len(budgets) == 1 else f"budgets {budgets[0]} to {budgets[-1]}"
    print(f"{steps} fine steps: ours for budgets 1 to 16 {1000 * ours:.3f} ms")
    for kind, costs in (("array", array), ("lists", array.tolist())):
        assert three_loops(costs, budgets[-1]) == routes[budgets[-1]].timesteps
        loops = seconds(partial(loop_for_each, costs, budgets), 3 if steps < 500 else 1)
        print(f"ratio         {loops / ours:7.1f}  ({kind}, {what}: {loops:.4f} s)")


def main() -> None:
    compare(100, [BUDGETS[-1]])
    compare(1000, list(BUDGETS))


if __name__ == "__main__":
    main()
