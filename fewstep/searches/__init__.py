"""Searches choose the times a few-step sampler visits; one file a search, found by its name.

A search is a frozen dataclass whose fields are its options. Its file imports torch lazily, so that
settings are checked without it; fewstep.searching holds what searches share. Stages and checks ask what a
search needs, by its class data, `needs` and `solvers`, and never compare its name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from fewstep import registry
from fewstep.errors import UserError
from fewstep.grids import Grid
from fewstep.searching.problem import Problem, check_budgets

if TYPE_CHECKING:
    from fewstep.searching.jumps import Jumps

__all__ = ["Problem", "Search", "SearchResult", "keeping_to_timesteps"]

registry.add_plugins(__name__, __path__)


@dataclass(frozen=True)
class SearchResult:
    """What a search found, by budget: the number of solver steps."""

    grids: dict[int, Grid]
    """The grid of each budget; the caller fills in guidance and model_digest, which a flow hides."""
    objective: dict[int, float] = field(default_factory=dict)
    """What the search minimised, at its grids; empty if it minimised nothing."""
    jumps: Jumps | None = None
    """What every jump between the timesteps it chose from costs, if it looked at jumps."""
    candidates: dict[str, dict[int, Grid]] = field(default_factory=dict)
    """The grids it chose among, by the name of their search."""
    decisions: dict[int, dict[str, Any]] = field(default_factory=dict)
    """How it chose."""


class Search:
    """What a file of this package defines a subclass of: a frozen dataclass whose fields are its options."""

    all_times: ClassVar[bool] = True
    """Whether it asks for velocities at all times; else it also serves students of jittered timesteps."""
    chooses: ClassVar[bool] = False
    """Whether it runs other searches as candidates and chooses among their grids."""
    fewest_to_report: ClassVar[int] = 2
    """Noises to score its grids on, below which its choice can't be told from luck."""

    def check(self, budgets: Sequence[int], solver: str) -> None:
        """Refuse budgets or a solver that this search can't find grids for; imports no torch.

        Raises:
            UserError: naming the first such budget, or the solver.
        """
        check_budgets(budgets)
        if solver not in (served := self.solvers()):
            raise UserError(registry.unknown("solver of this search", solver, served))

    def solvers(self) -> list[str]:
        """Return the names of the solvers that it finds grids for: all, unless a subclass says otherwise."""
        return registry.available("fewstep.solvers")

    def needs(self) -> dict[str, int]:
        """Return how many noises it uses in each role; see fewstep.searching.noise."""
        return {}

    def velocities(self, problem: Problem) -> int:
        """Return how many velocities it asks for at most, those of each noise counted."""
        return 0

    def search(self, problem: Problem) -> SearchResult:
        """Return a grid of the problem's solver for every budget.

        Raises:
            UserError: if a budget or an option is out of range.
        """
        raise NotImplementedError


def keeping_to_timesteps() -> list[str]:
    """Return the searches that ask for velocities near the timesteps of a student alone."""
    names = registry.available("fewstep.searches")
    return [name for name in names if not registry.find("fewstep.searches", name).all_times]
