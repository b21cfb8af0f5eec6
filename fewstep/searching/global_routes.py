"""The dynamic programme of OptimalSteps, on all states of a batch at once."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from fewstep import solvers
from fewstep.flow import Flow, WrappedFlow
from fewstep.grids import Grid
from fewstep.searching.fine import starting, states_along
from fewstep.searching.problem import Problem
from fewstep.searching.programme import Route
from fewstep.solvers import must_fit


class InBatches(WrappedFlow):
    """A flow of which more is asked at once than a network call should hold."""

    def __init__(self, flow: Flow, sizes: list[int]) -> None:
        super().__init__(flow)
        self.sizes = sizes

    def __call__(self, x: Tensor, t: Tensor | float, *, until: Any = None, **conditions: Tensor) -> Tensor:
        """See Flow; t, and of a flow map until, are one number."""
        given = [
            {name: values.split(self.sizes)[n] for name, values in conditions.items()}
            for n in range(len(self.sizes))
        ]
        ending = {} if until is None else {"until": until}
        parts = zip(x.split(self.sizes), given, strict=True)
        return torch.cat([self.flow(part, t, **more, **ending) for part, more in parts])


@torch.no_grad()
def global_routes(problem: Problem, fine: Grid, *, noises: int) -> dict[int, Route]:
    """Return for each budget the way along the timesteps of `fine` that the programme ends with.

    After m steps z[j] is the state that comes nearest, in mean square over all noises and dimensions, to
    the trajectory's at timestep j; each next step is tried from every timestep i to every later one.
    A velocity is asked for once at each z[i]; Euler and AB2 need no other.

    Args:
        problem: Its budgets, solver and noise of the role "search" are used.
        fine: The candidates for timesteps, and the solver of the trajectory.
        noises: How many decide together.
    """
    parts = list(problem.noise.batches("search", noises))
    noise = torch.cat([part for part, _ in parts])
    conditions = {name: torch.cat([given[name] for _, given in parts]) for name in parts[0][1]}
    must_fit(problem.followed, fine)
    sizes = [len(part) for part, _ in parts]
    flow, followed = InBatches(problem.flow, sizes), InBatches(problem.followed, sizes)
    most = max(problem.budgets)
    problem.progress.start("steps", most, unit="budget")
    wanted, _ = states_along(followed, fine, noise, conditions)
    reached: dict[int, tuple[Tensor, Any, tuple[int, ...]]] = {0: (wanted[0], None, (0,))}
    routes = {}
    for budget in range(1, most + 1):
        reached, errors = _one_more(problem.solver, flow, fine, wanted, reached, conditions)
        routes[budget] = Route(reached[fine.steps][2], errors[fine.steps])
        problem.progress.advance()
    return {budget: routes[budget] for budget in problem.budgets}


def _one_more(
    solver: str,
    flow: InBatches,
    fine: Grid,
    wanted: list[Tensor],
    reached: dict[int, tuple[Tensor, Any, tuple[int, ...]]],
    conditions: dict[str, Tensor],
) -> tuple[dict[int, tuple[Tensor, Any, tuple[int, ...]]], dict[int, float]]:
    """Return what is reached after one more step, by timestep: state, carry and way; and its error."""
    stepper, euler = solvers.get(solver), solvers.get("euler")
    errors: dict[int, float] = {}
    ahead = {}
    for i, (x, carry, way) in sorted(reached.items()):
        if i == fine.steps:
            continue
        t = fine.times[i]
        known = starting(flow, t, conditions, partial(flow, x, t, **conditions))
        for j in range(i + 1, fine.steps + 1):
            stepping = stepper if fine.times[j] <= flow.t_end else euler
            there, carried = stepping.step(known, x, t, fine.times[j], carry)
            error = float((there - wanted[j]).double().square().mean())
            if error < errors.get(j, float("inf")):
                errors[j], ahead[j] = error, (there, carried, (*way, j))
    return ahead, errors
