"""The dynamic programme of a step search: three plain loops, and fewstep's table for all budgets.

Run `python -m benchmarks.search_programme`. At 100 fine steps the loops find one budget, the largest; at
1000 they run once for each budget. Both sides get the same random costs, and must find equal ones.
"""

from time import perf_counter

import numpy as np

from fewstep.searches._programme import best_routes

BUDGETS, REPEATS = range(1, 17), 5


def random_costs(steps: int) -> np.ndarray:
    costs = np.random.default_rng(0).random((steps + 1, steps + 1))
    costs[np.tril_indices(steps + 1)] = np.inf
    return costs


def three_loops(costs: list[list[float]], budget: int) -> float:
    """Return the least cost of `budget` jumps, by Bellman's recursion written down as it is."""
    last = len(costs) - 1
    to_go = [row[last] for row in costs]
    for _ in range(2, budget + 1):
        longer = [float("inf")] * (last + 1)
        for j in range(last):
            for k in range(j + 1, last):
                cost = costs[j][k] + to_go[k]
                if cost < longer[j]:
                    longer[j] = cost
        to_go = longer
    return to_go[0]


def compare(steps: int, budgets: list[int], repeats: int) -> None:
    costs = random_costs(steps)
    rows, times = costs.tolist(), []
    for _ in range(REPEATS):
        began = perf_counter()
        routes = best_routes(costs, BUDGETS)
        times.append(perf_counter() - began)
    began = perf_counter()
    for _ in range(repeats):
        found = [three_loops(rows, budget) for budget in budgets]
    loops = (perf_counter() - began) / repeats
    assert np.allclose(found, [routes[budget].cost for budget in budgets])
    what = f"budget {budgets[0]}" if len(budgets) == 1 else f"budgets {budgets[0]} to {budgets[-1]}"
    print(f"{steps} fine steps: loops for {what} {loops:.4f} s, ours for 1 to 16 {min(times):.5f} s")
    print(f"ratio         {loops / min(times):7.1f}")


def main() -> None:
    compare(100, [BUDGETS[-1]], repeats=3)
    compare(1000, list(BUDGETS), repeats=1)


if __name__ == "__main__":
    main()
