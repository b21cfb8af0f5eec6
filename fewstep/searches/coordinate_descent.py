"""Coordinate descent: move the timesteps of the best of some grids until samples end nearest to the truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from fewstep.errors import UserError
from fewstep.grids import Grid
from fewstep.lazy import lazy_imports
from fewstep.searches import Problem, Search, SearchResult
from fewstep.searching.candidates import candidate, check_candidates, most_noises

with lazy_imports():
    from fewstep.searching import descent, ends


@dataclass(frozen=True, kw_only=True)
class CoordinateDescent(Search):
    """Coarse-to-fine coordinate descent on the true endpoint error, for grids that any search may start.

    It asks for velocities near the timesteps alone, so it can also search a student that was trained with
    jittered timesteps: from its own grid, as far as they were moved, for the ends of its teacher.

    It moves timesteps off every fine grid and knows no formula, and it overfits its noises: with few of
    them, keep the result only if fresh noise agrees, as `best` does.

    Raises:
        UserError: for a search to start from that can't be one, or no noises.
    """

    all_times = False
    chooses = True

    start: tuple[str, ...] = ("uniform", "quantile", "bellman")
    """The searches, with their defaults, whose best grid is where the descent starts."""
    noises: int = 512
    """Noises on which the best is chosen and the timesteps are moved."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "start", tuple(self.start))
        check_candidates("start", self.start)
        if self.noises < 1:
            raise UserError(f"noises must be 1 or more, got {self.noises}")

    def check(self, budgets: Sequence[int], solver: str) -> None:
        """See Search.check."""
        super().check(budgets, solver)
        for name in self.start:
            candidate(name).check(budgets, solver)

    def needs(self) -> dict[str, int]:
        """See Search.needs."""
        return {"search": most_noises(self.start), "polish": self.noises}

    def velocities(self, problem: Problem) -> int:
        """See Search.velocities."""
        moves = sum(descent.most_velocities(problem.solver, steps) for steps in problem.budgets)
        started = sum(candidate(name).velocities(problem) for name in self.start)
        chosen = ends.velocities_of_ends(problem, self.noises, grids=len(self.start))
        return started + chosen + self.noises * moves

    def search(self, problem: Problem) -> SearchResult:
        """See Search.search."""
        self.check(problem.budgets, problem.solver)
        grids = self._starts(problem)
        found, objective = {}, {}
        for steps in problem.budgets:
            asked = [named[steps] for named in grids.values()]
            errors = ends.endpoint_squares(problem, asked, "polish", self.noises).mean(dim=1)
            found[steps] = descent.descend(problem, asked[int(errors.argmin())], "polish", self.noises)
            (squares,) = ends.endpoint_squares(problem, [found[steps]], "polish", self.noises)
            objective[steps] = float(squares.mean())
        return SearchResult(found, objective, candidates=grids)

    def _starts(self, problem: Problem) -> dict[str, dict[int, Grid]]:
        student = problem.student
        if student is None:
            return {name: candidate(name).search(problem).grids for name in self.start}
        if problem.budgets != (student.grid.steps,) or problem.solver != student.grid.solver:
            raise UserError(
                f"a student of {student.grid.steps} {student.grid.solver} steps is searched for these alone, "
                f"not for {list(problem.budgets)} {problem.solver} steps"
            )
        return {"own": {student.grid.steps: replace(student.grid, guidance=1.0, model_digest=None)}}
