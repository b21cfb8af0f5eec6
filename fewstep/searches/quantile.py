"""Quantile: timesteps at equal parts of how much trajectories bend, the limit of Bellman for many steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from fewstep import spacings
from fewstep.errors import UserError
from fewstep.grids import Grid
from fewstep.lazy import lazy_imports
from fewstep.searches import Problem, Search, SearchResult
from fewstep.searching.problem import check_budgets

with lazy_imports():
    from fewstep.searching import jumps


@dataclass(frozen=True, kw_only=True)
class Quantile(Search):
    """Timesteps at the quantiles of a density proportional to (E|x''(t)|^2)^(1/4).

    Among many steps h(t), those that minimise the sum of h^4 E|x''|^2 have that density, and so have the
    timesteps of BOSS (arXiv 2312.16414), whose cost of a short jump that is. One fine run serves every
    budget.

    Raises:
        UserError: if an option is out of range.
    """

    fine_steps: int = 100
    """Equal Euler steps of the fine run."""
    noises: int = 128
    """Trajectories that the bending is averaged over."""

    def __post_init__(self) -> None:
        if self.fine_steps < 2 or self.noises < 1:
            raise UserError(
                f"fine_steps must be 2 or more and noises 1 or more, got {self.fine_steps} and {self.noises}"
            )

    def check(self, budgets: Sequence[int], solver: str) -> None:
        """See Search.check."""
        super().check(budgets, solver)
        check_budgets(budgets, self.fine_steps)

    def needs(self) -> dict[str, int]:
        """See Search.needs."""
        return {"search": self.noises}

    def velocities(self, problem: Problem) -> int:
        """See Search.velocities."""
        return self.fine_steps * self.noises

    def search(self, problem: Problem) -> SearchResult:
        """See Search.search."""
        self.check(problem.budgets, problem.solver)
        fine = problem.spaced("uniform", self.fine_steps, solver="euler")
        along_euler = replace(problem, flow=problem.followed, teacher=None, solver="euler", distance=None)
        bend = jumps.jumps(along_euler, fine, cost="squared", noises=self.noises).bend
        assert bend is not None, "Euler jumps come from increments"
        timesteps = np.asarray(fine.times)
        reached = mass(timesteps, bend)
        found = {}
        for steps in problem.budgets:
            shares = np.arange(1, steps) / steps * reached[-1]
            inner = np.interp(shares, reached, timesteps) if reached[-1] else shares_of_time(timesteps, steps)
            inside = spacings.within(inner.tolist(), fine.times[0], problem.flow.t_end)
            found[steps] = Grid((fine.times[0], *inside, 1.0), problem.solver)
        return SearchResult(found)


def mass(timesteps: np.ndarray, bend: np.ndarray) -> np.ndarray:
    """Return the integral of (E|x''|^2)^(1/4) up to each of the K + 1 timesteps; before the first 0.

    Args:
        timesteps: Times, (K + 1,).
        bend: Mean square of the velocity's increment at each inner timestep, (K - 1,): over the square of
            the step before it, E|x''|^2 in the middle of that step.
    """
    steps = np.diff(timesteps)
    density = (bend / steps[:-1] ** 2) ** 0.25
    density = np.append(density, density[-1])  # nothing is known of the last step
    return np.concatenate([[0.0], (density * steps).cumsum()])


def shares_of_time(timesteps: np.ndarray, steps: int) -> np.ndarray:
    """Return equal steps, for a flow that does not bend at all."""
    return np.linspace(timesteps[0], timesteps[-1], steps + 1)[1:-1]
