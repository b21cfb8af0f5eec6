"""Grids that a formula gives, without a look at the flow."""

from __future__ import annotations

from dataclasses import dataclass

from fewstep.errors import UserError
from fewstep.grids import Grid
from fewstep.searches import Problem, Search, SearchResult


@dataclass(frozen=True, kw_only=True)
class ClosedForm(Search):
    """A search that asks no velocity; subclasses give `times`."""

    def times(self, steps: int, start: float, end: float) -> tuple[float, ...]:
        """Return the timesteps of a flow that starts at `start` and gives no velocity after `end`."""
        raise NotImplementedError

    def search(self, problem: Problem) -> SearchResult:
        """See Search.search."""
        self.check(problem.budgets, problem.solver)
        start, end = problem.flow.t_start, problem.flow.t_end
        found = {steps: Grid(self.times(steps, start, end), problem.solver) for steps in problem.budgets}
        return SearchResult(found)


@dataclass(frozen=True, kw_only=True)
class Levels(ClosedForm):
    """A closed form over noise levels sigma = (1 - t) / t.

    Raises:
        UserError: if an option is out of range.
    """

    sigma_max: float = 80.0
    """The first level, for flows that start from pure noise."""
    sigma_min: float = 0.002
    """The last level before data."""

    def __post_init__(self) -> None:
        if not 0 < self.sigma_min < self.sigma_max < float("inf"):
            raise UserError(
                f"sigma_min must be above 0 and below sigma_max, got {self.sigma_min} and {self.sigma_max}"
            )
