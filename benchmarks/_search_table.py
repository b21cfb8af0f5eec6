"""A table of every search on one flow: endpoint RMSE on noise that nothing was chosen by."""

from statistics import NormalDist
from time import perf_counter

from fewstep.searches import Problem
from fewstep.searches.best import Best
from fewstep.searching.ends import endpoint_squares
from fewstep.searching.score import mean_and_error

BUDGETS, REPORT = (2, 4, 6, 8, 12), 4096
BEST = Best()


def print_table(title: str, problem: Problem, *, dimensions: int, comparisons: int) -> int:
    """Print the table and return how many candidates are better than `best` beyond luck.

    A star marks them: the paired difference of squared errors is below zero at 95 %,
    Bonferroni-corrected for so many comparisons. The square of an error is the mean over dimensions
    times `dimensions`.
    """
    quantile, beaten = NormalDist().inv_cdf(1 - 0.05 / comparisons), 0
    began = perf_counter()
    result = BEST.search(problem)
    print(f"\n{title}: searched in {perf_counter() - began:.0f} s")
    print("| K |", *(f"{name} |" for name in BEST.candidates), "best | median | best is |")
    print("|---" * (len(BEST.candidates) + 4) + "|")
    for steps in problem.budgets:
        asked = {name: grids[steps] for name, grids in result.candidates.items()}
        asked["best"] = result.grids[steps]
        squares = dimensions * endpoint_squares(problem, list(asked.values()), "report", REPORT)
        cells = []
        for errors in squares:
            difference, error = mean_and_error(errors - squares[-1])
            better = difference + quantile * error < 0
            beaten += better
            cells.append(f"{errors.mean() ** 0.5:.3f}{'*' if better else ''} |")
        decision = result.decisions[steps]
        how = f"{decision['from']}{', moved' if decision['moved'] else ''} |"
        print(f"| {steps} |", *cells, f"{squares[-1].sqrt().median():.3f} |", how, flush=True)
    return beaten
