"""Bellman: the knots between which Euler jumps stray least from a fine trajectory, summed.

BOSS phase 1; Nguyen, Nguyen and Nguyen 2024 (arXiv 2312.16414), the search. No data is needed. The
objective adds up errors of single jumps from states of the fine trajectory; it is not the error at
the end, which `fewstep.searches._score` measures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fewstep import grids
from fewstep.grids import Grid
from fewstep.progress import SILENT, Progress
from fewstep.searches import SearchResult

if TYPE_CHECKING:
    from fewstep.flow import Flow


@dataclass(frozen=True, kw_only=True)
class Bellman:
    """Dynamic programme over the cost of Euler jumps."""

    fine_steps: int = 100
    """Equal Euler steps of the fine trajectory, whose knots are the candidates."""
    noises: int = 128
    """Trajectories the costs are averaged over."""

    def check(self, budgets: Sequence[int]) -> None:
        """See Search.check."""
        from fewstep.searches._programme import check_budgets

        check_budgets(budgets, self.fine_steps)

    def search(
        self,
        flow: Flow,
        *,
        seed: int,
        shape: tuple[int, ...],
        classes: int,
        budgets: Sequence[int],
        batch: int,
        device: str = "cpu",
        progress: Progress = SILENT,
    ) -> SearchResult:
        """See Search.search."""
        from fewstep.draws import draws
        from fewstep.searches._costs import jump_costs
        from fewstep.searches._programme import best_routes

        self.check(budgets)  # before the network is called
        fine = grids.uniform(self.fine_steps, start=flow.t_start)
        indices = range(self.noises)
        samples = draws("search", seed, indices, shape=shape, classes=classes, batch=batch, device=device)
        progress.start("search", self.noises, unit="noise")
        matrix = jump_costs(flow, fine, samples, progress=progress)
        routes = best_routes(matrix.costs.numpy(), budgets)
        return SearchResult(
            grids={b: Grid(tuple(fine.times[k] for k in routes[b].knots)) for b in budgets},
            costs=matrix,
            objective={b: routes[b].cost for b in budgets},
            uniform_objective={b: matrix.total(_even_knots(self.fine_steps, b)) for b in budgets},
        )


def _even_knots(fine_steps: int, steps: int) -> list[int]:
    """Return positions of the fine knots nearest to `steps` equal steps."""
    return [(2 * i * fine_steps + steps) // (2 * steps) for i in range(steps + 1)]
