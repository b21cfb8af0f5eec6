"""Every search on three Gaussian mixtures: how far Euler steps end from the truth, on fresh noise.

Run `python -m benchmarks.search_mixtures`. For each mixture and number of steps it prints the endpoint
RMSE (summed over dimensions) of every candidate, and of `best`, on 4096 noises that nothing was chosen
by. A star marks a candidate that is better than `best` beyond luck: the paired difference of squared
errors is below zero at 95 %, Bonferroni-corrected for all comparisons of the table.
"""

from statistics import NormalDist
from time import perf_counter

import torch

from benchmarks._mixtures import Mixture
from fewstep.flow import FieldFlow
from fewstep.searches import Problem
from fewstep.searches._checked import Checked
from fewstep.searches._ends import endpoint_squares
from fewstep.searches._noise import Drawn
from fewstep.searches._score import mean_and_error
from fewstep.searches.best import Best

BUDGETS = (2, 4, 6, 8, 12)
MIXTURES = {  # dimensions, components, standard deviation
    "2-D": (2, 6, 0.15),
    "32-D": (32, 10, 0.1),
    "256-D": (256, 20, 0.05),
}
REPORT, TRUTH_STEPS = 4096, 256


def main() -> None:
    torch.set_num_threads(1)
    best = Best()
    comparisons = len(MIXTURES) * len(BUDGETS) * len(best.candidates)
    quantile = NormalDist().inv_cdf(1 - 0.05 / comparisons)
    beaten = 0
    for name, (dimensions, components, std) in MIXTURES.items():
        began = perf_counter()
        flow = Checked(FieldFlow(Mixture.drawn(dimensions, components, std)))
        noise = Drawn(seed=0, shape=(dimensions,), classes=0, batch=512)
        problem = Problem(flow, noise, BUDGETS, truth_steps=TRUTH_STEPS)
        result = best.search(problem)
        searched = perf_counter() - began
        print(f"\n{name}, {components} components of standard deviation {std}: searched in {searched:.0f} s")
        print("K".rjust(3), *(f"{title:>13}" for title in (*best.candidates, "best")), " best is")
        for steps in BUDGETS:
            asked = {c: grids[steps] for c, grids in result.candidates.items()} | {
                "best": result.grids[steps]
            }
            squares = dimensions * endpoint_squares(problem, list(asked.values()), "report", REPORT)
            cells = []
            for errors in squares:
                difference, error = mean_and_error(errors - squares[-1])
                better = difference + quantile * error < 0
                beaten += better
                cells.append(f"{errors.mean() ** 0.5:.3f}{'*' if better else ' '}".rjust(13))
            decision = result.decisions[steps]
            print(f"{steps:3}", *cells, f" {decision['from']}{', moved' if decision['moved'] else ''}")
    print(f"\n{beaten} of {comparisons} candidates are better than best beyond luck")


if __name__ == "__main__":
    main()
