"""The searches on the digits models that `make run` trains: what they cost, and how far steps end.

Run `python -m benchmarks.search_digits` after `make run`; some minutes for each model, on as many
processes as FEWSTEP_WORKERS says. It prints

- what the fine trajectories of a search cost over the bare network calls, and what the searches that
  live on them take beyond, for all budgets from 1 to 16;
- the table of endpoint RMSE, over dimensions, of every search (see benchmarks/_search_table.py).
"""

import sys
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from time import perf_counter

import torch

from benchmarks._search_table import BEST, BUDGETS, REPORT, print_table
from fewstep.checkpoint import load_model
from fewstep.flow import ModelFlow, as_flow
from fewstep.model import Model
from fewstep.searches import Problem
from fewstep.searches.bellman import Bellman
from fewstep.searches.bellman_plain import BellmanPlain
from fewstep.searches.gits import Gits
from fewstep.searches.quantile import Quantile
from fewstep.searching.checked import Checked
from fewstep.searching.fine import bends_of
from fewstep.searching.noise import Drawn
from stages.sampling.open_model import open_sampler
from stages.searching.parallel_problem import spread_out

MODELS, NOISES, REPEATS = ("base", "round1"), 128, 3


def question(model: Model, flow: ModelFlow, budgets: tuple[int, ...]) -> Problem:
    return Problem(
        Checked(flow), Drawn(0, model.config.shape, model.noise, model.conditions, NOISES), budgets
    )


@torch.no_grad()
def costs(model: Model, flow: ModelFlow) -> None:
    """Print the bare calls, the fine trajectories and the searches beyond, each the best of a few runs."""
    problem = question(model, flow, tuple(range(1, 17)))
    by_square, by_norm, over_levels = Bellman(), BellmanPlain(), Gits()
    runs = [(search.fine(problem), search.noises) for search in (by_square, by_norm, over_levels)]

    def bare() -> None:
        for fine, noises in runs:
            for x, conditions in problem.noise.batches("search", noises):
                for t, t_next in pairwise(fine.times):
                    x = x + (t_next - t) * flow(x, t, **conditions)

    def trajectories() -> None:
        for fine, noises in runs:
            for noise, conditions in problem.noise.batches("search", noises):
                bends_of(problem.flow, fine, noise, conditions)

    def searches() -> None:
        again = question(model, flow, problem.budgets)
        for search in (by_square, by_norm, over_levels, Quantile()):  # the last has the run of the first
            search.search(again)

    seconds: dict[Callable[[], None], float] = {}
    for _ in range(REPEATS):
        for work in (bare, trajectories, searches):
            began = perf_counter()
            work()
            spent = perf_counter() - began
            seconds[work] = min(spent, seconds.get(work, spent))
    beyond = seconds[searches] - seconds[trajectories]
    print(f"bare network calls of three fine runs {seconds[bare]:.2f} s")
    print(f"ratio of trajectories to bare calls  {seconds[trajectories] / seconds[bare]:.3f}")
    print(f"four searches for budgets 1 to 16, beyond the trajectories: {beyond:.2f} s")


def main() -> None:
    torch.set_num_threads(1)
    folders = [Path("artifacts/models") / name for name in MODELS]
    if missing := [str(folder) for folder in folders if not folder.exists()]:
        sys.exit(f"there is no {missing[0]}; train it first: make run")
    comparisons, beaten = len(MODELS) * len(BUDGETS) * len(BEST.candidates), 0
    for folder in folders:
        model = load_model(folder)
        flow = as_flow(model)
        costs(model, flow)
        asked = question(model, flow, BUDGETS)
        opened = partial(open_sampler, folder, "float32")
        with spread_out(asked, opened, guidance=1.0, most=REPORT) as problem:
            beaten += print_table(folder.name, problem, dimensions=1, comparisons=comparisons)
    print(f"\n{beaten} of {comparisons} candidates are better than best beyond luck")


if __name__ == "__main__":
    main()
