"""OptimalSteps: a dynamic programme over where the student itself would be, not over single jumps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fewstep import solvers
from fewstep.errors import UserError
from fewstep.grids import Grid
from fewstep.lazy import lazy_imports
from fewstep.searches import Problem, Search, SearchResult
from fewstep.searching.problem import check_budgets

with lazy_imports():
    from fewstep.searching import global_routes


@dataclass(frozen=True, kw_only=True)
class OptimalSteps(Search):
    """For every number of steps, the way to each fine state that ends nearest to it.

    Source: Pei, Hu and Gu 2025 (arXiv 2503.21774).
    Error is global: a step starts where the steps before it led. That the nearest way now is part of
    the nearest way later is assumed, not proven. The published code finds a grid for each sample and takes
    medians; here all noises vote on each choice by their mean square error.

    Raises:
        UserError: if an option is out of range.
    """

    fine_steps: int = 64
    """Equal Heun steps of the trajectory that is to be followed."""
    noises: int = 64
    """Noises that vote; their states at every fine timestep are held in memory."""

    def __post_init__(self) -> None:
        for name in ("fine_steps", "noises"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be 1 or more, got {getattr(self, name)}")

    def check(self, budgets: Sequence[int], solver: str) -> None:
        """See Search.check."""
        super().check(budgets, solver)
        check_budgets(budgets, self.fine_steps)

    def needs(self) -> dict[str, int]:
        """See Search.needs."""
        return {"search": self.noises}

    def velocities(self, problem: Problem) -> int:
        """See Search.velocities."""
        each, most = solvers.velocities(problem.solver, 1), max(problem.budgets)
        pairs = self.fine_steps * (self.fine_steps + 1) // 2
        tried = most * (each * pairs if problem.of_map else self.fine_steps + (each - 1) * pairs)
        return self.noises * (2 * self.fine_steps + tried)

    def search(self, problem: Problem) -> SearchResult:
        """See Search.search."""
        self.check(problem.budgets, problem.solver)
        fine = problem.spaced("uniform", self.fine_steps, solver="heun")
        routes = global_routes.global_routes(problem, fine, noises=self.noises)
        return SearchResult(
            grids={
                steps: Grid(tuple(fine.times[k] for k in route.timesteps), problem.solver)
                for steps, route in routes.items()
            },
            objective={steps: route.cost for steps, route in routes.items()},
        )
