"""What the dynamic programmes over the costs of single jumps share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from fewstep import registry, solvers
from fewstep.errors import UserError
from fewstep.grids import Grid
from fewstep.lazy import lazy_imports
from fewstep.searches import Problem, Search, SearchResult
from fewstep.searching.gram import BY_GRAM
from fewstep.searching.problem import check_budgets
from fewstep.searching.programme import best_routes, best_routes_after
from fewstep.spacings import Spacing

if TYPE_CHECKING:
    import numpy as np

    from fewstep.searching.jumps import Jumps

with lazy_imports():
    from fewstep.searching import jumps


@dataclass(frozen=True, kw_only=True)
class OverJumps(Search):
    """The timesteps between which a solver's jumps from a fine trajectory stray least from it, added up.

    Raises:
        UserError: if an option is out of range.
    """

    cost: ClassVar[Literal["squared", "plain"]] = "squared"
    """What a jump costs: the mean square of its error, or the mean of its norm."""
    discount: float = 1.0
    """What the jumps still to go weigh against the next one; above 1, later ones weigh more."""
    fine_steps: int = 100
    """Steps of the fine trajectory, whose timesteps are the candidates."""
    tried_steps: int = 24
    """The same where each jump has to be tried: for solvers other than euler and ab2, a distance, or a flow
    map."""
    spacing: Spacing = "uniform"
    """How the fine timesteps are spaced."""
    fine_solver: str | None = None
    """Solver of the fine trajectory: euler, after which single fine steps cost nothing, or one of higher
    order. None is euler for Euler steps, heun for AB2, rk4 for other solvers and flow maps."""
    noises: int = 128
    """Trajectories the costs are averaged over."""

    def __post_init__(self) -> None:
        for name in ("fine_steps", "tried_steps", "noises"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be 1 or more, got {getattr(self, name)}")
        if not 0 < self.discount < float("inf"):
            raise UserError(f"discount must be a positive number, got {self.discount}")
        steppers = one_step_solvers()
        if self.fine_solver is not None and self.fine_solver not in steppers:
            raise UserError(registry.unknown("fine_solver", self.fine_solver, steppers))

    def check(self, budgets: Sequence[int], solver: str) -> None:
        """See Search.check; whether jumps are measured with a distance is not known here."""
        super().check(budgets, solver)
        check_budgets(budgets, self.fine_steps if solver in BY_GRAM else self.tried_steps)

    def solvers(self) -> list[str]:
        """See Search.solvers: those whose steps follow from velocities, or can be tried one by one."""
        every = registry.available("fewstep.solvers")
        remembering = [name for name in every if solvers.first_velocities(name)]
        return sorted({*BY_GRAM, *one_step_solvers(), *remembering})

    def needs(self) -> dict[str, int]:
        """See Search.needs."""
        return {"search": self.noises}

    def velocities(self, problem: Problem) -> int:
        """See Search.velocities."""
        fine, each = self.fine(problem), solvers.velocities(problem.solver, 1)
        made = fine.steps * solvers.get(fine.solver).velocities_per_step
        pairs = fine.steps * (fine.steps + 1) // 2
        known = 0 if problem.of_map else 1  # the first of each jump
        tried = 0 if jumps.by_gram(problem) else pairs * (each - known)
        return self.noises * (made + tried)

    def fine(self, problem: Problem) -> Grid:
        """Return the fine grid, and the solver that follows it."""
        usual = {"euler": "euler", "ab2": "heun"}.get(problem.solver, "rk4")
        if problem.of_map:
            usual = "rk4"
        steps = self.fine_steps if jumps.by_gram(problem) else self.tried_steps
        return problem.spaced(self.spacing, steps, solver=self.fine_solver or usual)

    def priced(self, jumps: Jumps) -> tuple[np.ndarray, np.ndarray | None]:
        """Return the costs (K + 1, K + 1) of jumps, and those after another jump if these differ."""
        return jumps.costs, jumps.after

    def search(self, problem: Problem) -> SearchResult:
        """See Search.search."""
        fine = self.fine(problem)
        check_budgets(problem.budgets, fine.steps)  # before the network is called
        known = jumps.jumps(problem, fine, cost=self.cost, noises=self.noises)
        costs, after = self.priced(known)
        if after is None:
            routes = best_routes(costs, problem.budgets, discount=self.discount)
        else:
            routes = best_routes_after(costs, after, problem.budgets, discount=self.discount)
        return SearchResult(
            grids={
                steps: Grid(tuple(fine.times[k] for k in route.timesteps), problem.solver)
                for steps, route in routes.items()
            },
            objective={steps: route.cost for steps, route in routes.items()},
            jumps=known,
        )


def one_step_solvers() -> list[str]:
    """Return the names of the solvers whose steps remember nothing, so that single ones can be tried."""
    return [name for name in registry.available("fewstep.solvers") if not solvers.get(name).slopes_kept]
