"""Tan: the exact optimum for Gaussian data, with its scale chosen by where samples end."""

from __future__ import annotations

from dataclasses import dataclass

from fewstep import spacings
from fewstep.errors import UserError
from fewstep.grids import Grid
from fewstep.lazy import lazy_imports
from fewstep.searches import Problem, Search, SearchResult

with lazy_imports():
    from fewstep.searching import ends


SCALES = tuple(2 ** (n / 2) for n in range(-10, 7))  # from 1/32 to 8


@dataclass(frozen=True, kw_only=True)
class Tan(Search):
    """Equal steps of the angle arctan(sigma / scale); Sabour et al. 2024 (arXiv 2404.14507).

    No Euler steps end nearer to Gaussian data of that standard deviation. For other data the scale is
    the one, of a few, that ends nearest to the truth.

    Raises:
        UserError: if an option is out of range.
    """

    scale: float | None = None
    """Standard deviation of the data; None chooses it, for each budget."""
    noises: int = 128
    """Noises on which the scale is chosen."""

    def __post_init__(self) -> None:
        if self.scale is not None and not 0 < self.scale < float("inf"):
            raise UserError(f"scale must be a positive number, got {self.scale}")
        if self.noises < 1:
            raise UserError(f"noises must be 1 or more, got {self.noises}")

    def needs(self) -> dict[str, int]:
        """See Search.needs."""
        return {"search": self.noises} if self.scale is None else {}

    def velocities(self, problem: Problem) -> int:
        """See Search.velocities."""
        if self.scale is not None:
            return 0
        return ends.velocities_of_ends(problem, self.noises, grids=len(SCALES))

    def search(self, problem: Problem) -> SearchResult:
        """See Search.search."""
        self.check(problem.budgets, problem.solver)
        scales = SCALES if self.scale is None else (self.scale,)
        between = {"start": problem.flow.t_start, "end": problem.flow.t_end}
        found, objective = {}, {}
        for steps in problem.budgets:
            asked = [Grid(spacings.tangent(steps, **between, scale=c), problem.solver) for c in scales]
            found[steps] = asked[0]
            if len(asked) > 1 and steps > 1:
                errors = ends.endpoint_squares(problem, asked, "search", self.noises).mean(dim=1)
                found[steps], objective[steps] = asked[int(errors.argmin())], float(errors.min())
        return SearchResult(found, objective)
