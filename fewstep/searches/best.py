"""Best: the best grid of all searches, its timesteps moved, chosen by where samples end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

from fewstep.errors import UserError
from fewstep.grids import Grid
from fewstep.lazy import lazy_imports
from fewstep.searches import Problem, Search, SearchResult
from fewstep.searching.candidates import candidate, check_candidates, most_noises

with lazy_imports():
    import torch

    from fewstep.searching import descent, ends
    from fewstep.searching import score as scores


FEWEST = 512
"""Noises below which a polish overfits."""
CONFIDENCE = 0.99
CANDIDATES = (
    "uniform",
    "edm",
    "log_snr",
    "tan",
    "quantile",
    "bellman",
    "bellman_plain",
    "gits",
    "optimal_steps",
)


@dataclass(frozen=True, kw_only=True)
class Best(Search):
    """The grid that ends nearest to the truth; three disjoint sets of noise keep luck out of the choice.

    Candidates are made with the first set. On the second their endpoint errors are compared, and the
    best one's timesteps are moved by coordinate descent. The moved timesteps are kept only if, on the third,
    the paired difference of their mean square errors is below zero at 99 %; else the candidate stands
    that is best on both sets.

    Raises:
        UserError: for a candidate that can't be one, or fewer than 512 noises.
    """

    chooses = True
    fewest_to_report = 4096

    candidates: tuple[str, ...] = CANDIDATES
    """The searches to choose among, with their defaults."""
    polish: bool = True
    """Whether to move the best candidate's timesteps."""
    noises: int = 1024
    """Noises of each of the second and the third set."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "candidates", tuple(self.candidates))
        check_candidates("candidates", self.candidates)
        if self.noises < FEWEST:
            raise UserError(
                f"noises must be {FEWEST} or more, or the choice overfits them; got {self.noises}"
            )

    def check(self, budgets: Sequence[int], solver: str) -> None:
        """See Search.check."""
        super().check(budgets, solver)
        for name in self.candidates:
            candidate(name).check(budgets, solver)

    def needs(self) -> dict[str, int]:
        """See Search.needs."""
        return {"search": most_noises(self.candidates), "polish": self.noises, "select": self.noises}

    def velocities(self, problem: Problem) -> int:
        """See Search.velocities."""
        made = sum(candidate(name).velocities(problem) for name in self.candidates)
        compared = 2 * ends.velocities_of_ends(problem, self.noises, grids=len(self.candidates) + 1)
        moves = (
            sum(descent.most_velocities(problem.solver, steps) for steps in problem.budgets)
            if self.polish
            else 0
        )
        return made + compared + self.noises * moves

    def search(self, problem: Problem) -> SearchResult:
        """See Search.search."""
        self.check(problem.budgets, problem.solver)
        nfe = self.velocities(problem) * problem.flow.nfe_per_velocity
        problem.progress.note(f"best: up to about {nfe:,} network calls, counted for each noise")
        results = {name: candidate(name).search(problem) for name in self.candidates}
        grids = {name: result.grids for name, result in results.items()}
        choices = {
            steps: self.choose(problem, {name: found[steps] for name, found in grids.items()})
            for steps in problem.budgets
        }
        known = [result.jumps for result in results.values() if result.jumps is not None]
        return SearchResult(
            grids={steps: grid for steps, (grid, _) in choices.items()},
            jumps=known[0] if known else None,
            candidates=grids,
            decisions={steps: decision for steps, (_, decision) in choices.items()},
        )

    def choose(self, problem: Problem, asked: dict[str, Grid]) -> tuple[Grid, dict[str, Any]]:
        """Return the grid to use of some of the same number of steps, and what decided it."""
        names, found = list(asked), list(asked.values())
        where = f"at {found[0].steps} steps"
        first = ends.endpoint_squares(problem, found, "polish", self.noises, label=f"compare {where}")
        start = int(first.mean(dim=1).argmin())
        moved = found[start]
        if self.polish and moved.steps > 1:
            moved = descent.descend(problem, moved, "polish", self.noises)
        second = ends.endpoint_squares(
            problem, [*found, moved], "select", self.noises, label=f"select {where}"
        )
        gain, error = scores.mean_and_error(second[-1] - second[start])
        if gain + NormalDist().inv_cdf(CONFIDENCE) * error < 0:
            decision = {"from": names[start], "moved": True}
            return moved, decision | {"difference": gain, "standard_error": error}
        both = torch.cat([first, second[:-1]], dim=1).mean(dim=1)
        name = names[int(both.argmin())]
        return asked[name], {"from": name, "moved": False, "difference": gain, "standard_error": error}
