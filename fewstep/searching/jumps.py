"""What jumps between the timesteps of a fine grid cost a solver, averaged over noises.

The published cost (BOSS; Nguyen, Nguyen and Nguyen 2024, arXiv 2312.16414) is the mean square of how far
one long step lands from where the fine steps lead, summed over dimensions; the other one kept here is
the mean of that distance itself (GITS; Chen et al. 2024, arXiv 2405.11326). Steps of Euler and AB2 are
combinations of velocities on the trajectory, so their costs follow from a Gram matrix. A step of any
other solver asks for velocities off the trajectory and is made, K^2 / 2 of them, on a coarser grid; so
are jumps that a function of the user's judges, and those of a flow map, from its truth's fine trajectory.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from fewstep import solvers
from fewstep.errors import UserError
from fewstep.flow import Flow
from fewstep.grids import Grid
from fewstep.searching.fine import bends_of, starting, states_along
from fewstep.searching.gram import BY_GRAM, ab2_squares, jump_squares
from fewstep.searching.problem import Problem
from fewstep.solvers import must_fit

Distance = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Jumps:
    """The costs of all jumps forwards between the timesteps of a fine grid."""

    fine: Grid
    noises: int
    """Trajectories averaged over."""
    cost: str
    """Of a jump: "squared", the mean square of its error, or "plain", the mean of its norm."""
    costs: np.ndarray  # float64 (K + 1, K + 1); [j, k] from timestep j to timestep k, inf unless j < k
    errors: np.ndarray | None = None  # (K + 1, K + 1); standard errors of plain costs, 0 unless j < k
    after: np.ndarray | None = None  # (K + 1, K + 1, K + 1); [i, j, k] of AB2, from j to k after i to j
    bend: np.ndarray | None = None  # (K - 1,); mean square of the increment at each inner timestep


def jumps(problem: Problem, fine: Grid, *, cost: str, noises: int) -> Jumps:
    """Return what jumps between the timesteps of `fine` cost the problem's solver.

    Memory is that of one batch: its velocities at all timesteps, or, where jumps are made one by one, its
    states. Work is done in the noise's own precision, sums in float64.

    Args:
        problem: Its flow, solver, distance and noise of the role "search" are used.
        fine: The candidates for timesteps; its solver makes the trajectories.
        cost: "squared" or "plain".
        noises: How many to average over.
    """
    found = _by_gram if by_gram(problem) else _by_trying
    key = ("jumps", found, fine, cost, noises, problem.solver, problem.distance)
    return problem.once(key, lambda: found(problem, fine, cost, noises))


def by_gram(problem: Problem) -> bool:
    """Return whether costs follow from velocities on the fine trajectory; else each jump is tried.

    Those of a flow map say nothing of its steps.
    """
    return problem.solver in BY_GRAM and problem.distance is None and not problem.of_map


def _by_gram(problem: Problem, fine: Grid, cost: str, noises: int) -> Jumps:
    last_is_euler = fine.times[-1] > problem.flow.t_end
    plain_of = problem.solver if cost == "plain" else None
    sums = problem.total(partial(_gram_sums, plain_of, fine, last_is_euler), "search", noises)
    gram = sums["gram"] / noises
    bend, squares = gram.diagonal()[: fine.steps - 1], jump_squares(fine.times, gram)
    if cost == "squared":
        after = None
        if problem.solver == "ab2":
            after = ab2_squares(fine.times, gram, last_is_euler=last_is_euler)
        return Jumps(fine, noises, cost, squares, after=after, bend=bend)
    costs = sums["plain"] / noises
    after = sums["after"] / noises if "after" in sums else None
    return Jumps(fine, noises, cost, costs, _errors(squares, costs, noises), after, bend)


def _by_trying(problem: Problem, fine: Grid, cost: str, noises: int) -> Jumps:
    must_fit(problem.followed, fine)
    another = problem.followed if problem.of_map else None
    tried = partial(_tried_sums, problem.distance, problem.solver, fine, another)
    sums = problem.total(tried, "search", noises)
    squares, plain = sums["squares"] / noises, sums["plain"] / noises
    if cost == "squared":
        return Jumps(fine, noises, cost, squares)
    return Jumps(fine, noises, cost, plain, _errors(squares, plain, noises))


def _errors(squares: np.ndarray, means: np.ndarray, noises: int) -> np.ndarray:
    """Return the standard errors of means, given the means of squares, of the same numbers."""
    forwards = np.isfinite(means)
    spread = np.square(means, out=np.zeros_like(means), where=forwards)
    spread = np.subtract(squares, spread, out=np.zeros_like(means), where=forwards)
    return np.sqrt(spread.clip(min=0) / max(noises - 1, 1))


@torch.no_grad()
def _gram_sums(
    plain_of: str | None,
    fine: Grid,
    last_is_euler: bool,
    flow: Flow,
    noise: Tensor,
    conditions: dict[str, Tensor],
) -> dict[str, np.ndarray]:
    """Return the sum over noises of Gram matrices, and of the plain costs of a solver's jumps if asked."""
    bends = bends_of(flow, fine, noise, conditions)
    rows = bends.increments if bends.residuals is None else torch.cat([bends.increments, bends.residuals], 1)
    grams = torch.bmm(rows, rows.mT).double()  # (n, R, R), of each sample
    sums = {"gram": grams.sum(dim=0).cpu().numpy()}
    if plain_of is not None:
        each = grams.cpu().numpy()
        sums["plain"] = np.sqrt(jump_squares(fine.times, each)).sum(axis=0)
    if plain_of == "ab2":
        after = (np.sqrt(ab2_squares(fine.times, gram, last_is_euler=last_is_euler)) for gram in each)
        sums["after"] = sum(after, np.zeros(()))
    return sums


@torch.no_grad()
def _tried_sums(
    distance: Distance | None,
    solver: str,
    fine: Grid,
    another: Flow | None,
    flow: Flow,
    noise: Tensor,
    conditions: dict[str, Tensor],
) -> dict[str, np.ndarray]:
    stepper, euler = solvers.for_jumps(solver), solvers.get("euler")
    states, velocities = states_along(another or flow, fine, noise, conditions)
    squares, plain = (np.full((fine.steps + 1, fine.steps + 1), np.inf) for _ in range(2))
    for j in range(fine.steps):
        known = starting(flow, fine.times[j], conditions, partial(velocities.__getitem__, j))
        for k in range(j + 1, fine.steps + 1):
            stepping = stepper if fine.times[k] <= flow.t_end else euler
            reached, _ = stepping.step(known, states[j], fine.times[j], fine.times[k], None)
            errors = _checked((distance or _norm)(reached, states[k]), len(noise))
            squares[j, k], plain[j, k] = float(errors.square().sum()), float(errors.sum())
    return {"squares": squares, "plain": plain}


def _checked(errors: Tensor, noises: int) -> Tensor:
    """Return distances as float64, if they are that."""
    if not isinstance(errors, Tensor) or errors.shape != (noises,) or not errors.isfinite().all():
        raise UserError(
            f"a distance must give {noises} finite numbers for {noises} pairs of states, a tensor of shape "
            f"({noises},); got {errors}"
        )
    return errors.double()


def _norm(reached: Tensor, wanted: Tensor) -> Tensor:
    return (reached - wanted).flatten(1).double().norm(dim=1)
