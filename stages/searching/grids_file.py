"""grids.json: what a search found, for the stages and pages that use it."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.numpy import save_file

from fewstep.errors import UserError
from fewstep.grids import Grid

if TYPE_CHECKING:
    from fewstep.searches import Problem, SearchResult
    from fewstep.searching.jumps import Jumps

NAME = "grids.json"
BY_STEPS = ("candidates", "scores", "objective", "decisions")


@dataclass(frozen=True, kw_only=True)
class SearchedGrids:
    """What a search found and how it was scored; mappings are by number of steps."""

    grids: dict[int, Grid]
    fine: Grid
    """What a teacher follows whose states at the timesteps are wanted."""
    method: dict[str, Any]
    """The name of the search and its options."""
    baseline: str = "uniform"
    """The name of the grid that others are compared with: equal steps, or a student's own."""
    candidates: dict[int, dict[str, tuple[float, ...]]] = field(default_factory=dict)
    """The times of every grid that was scored, by the name of its search."""
    scores: dict[int, dict[str, dict[str, float]]] = field(default_factory=dict)
    """fewstep.searching.score.Score of each, and of equal steps."""
    objective: dict[int, float] = field(default_factory=dict)
    """What the search minimised."""
    decisions: dict[int, dict[str, Any]] = field(default_factory=dict)
    """How it chose among candidates."""
    protocol: dict[str, Any] = field(default_factory=dict)
    """How many noises did what, and what the truth is."""

    def grid(self, steps: int, asked_by: str) -> Grid:
        """Return the grid of so many steps.

        Raises:
            UserError: if that number was not searched.
        """
        if steps not in self.grids:
            raise UserError(f"{asked_by} wants {steps} steps, but only {sorted(self.grids)} were searched")
        return self.grids[steps]


def fine_of(result: "SearchResult", problem: "Problem") -> Grid:
    """Return the fine grid that all timesteps were taken from, or that of the truth if there is none."""
    if result.jumps is not None:
        times = set(result.jumps.fine.times)
        if all(times.issuperset(grid.times) for grid in result.grids.values()):
            return result.jumps.fine
    return problem.spaced("uniform", problem.truth_steps, solver="heun")


def write_grids(folder: Path, found: SearchedGrids, jumps: "Jumps | None") -> None:
    """Write grids.json, in which floats survive exactly, and what jumps cost as costs.safetensors."""
    text = asdict(found)
    for name in ("grids", *BY_STEPS):
        text[name] = {str(steps): value for steps, value in text[name].items()}
    (folder / NAME).write_text(json.dumps(text, indent=1, sort_keys=True) + "\n")
    if jumps is not None:
        arrays = {"costs": jumps.costs, "standard_errors": jumps.errors}
        kept = {name: array.copy() for name, array in arrays.items() if array is not None}
        save_file(kept, folder / "costs.safetensors")


def read_grids(folder: Path) -> SearchedGrids:
    """Return what `write_grids` wrote."""
    text = json.loads((folder / NAME).read_text())
    by_steps = {name: {int(k): value for k, value in text[name].items()} for name in BY_STEPS}
    return SearchedGrids(
        grids={int(steps): Grid(**grid) for steps, grid in text["grids"].items()},
        fine=Grid(**text["fine"]),
        method=text["method"],
        baseline=text["baseline"],
        protocol=text["protocol"],
        **by_steps,
    )
