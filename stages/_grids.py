"""grids.json: what a search found, for the stages and pages that use it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fewstep.errors import UserError
from fewstep.grids import Grid

NAME = "grids.json"


@dataclass(frozen=True)
class Found:
    """The grids of a search, by number of steps, and the fine grid that its knots were taken from."""

    grids: dict[int, Grid]
    fine: Grid
    scores: dict[int, dict[str, float]]
    """What fewstep.searches measured of each grid on fresh noise."""
    method: dict[str, Any]

    def grid(self, steps: int, asked_by: str) -> Grid:
        """Return the grid of so many steps.

        Raises:
            UserError: if that number was not searched.
        """
        if steps not in self.grids:
            raise UserError(f"{asked_by} wants {steps} calls, but only {sorted(self.grids)} were searched")
        return self.grids[steps]


def write_grids(folder: Path, found: Found) -> None:
    """Write grids.json; floats survive exactly."""
    text = {
        "method": found.method,
        "fine": json.loads(found.fine.to_json()),
        "grids": {str(steps): json.loads(grid.to_json()) for steps, grid in found.grids.items()},
        "scores": {str(steps): score for steps, score in found.scores.items()},
    }
    (folder / NAME).write_text(json.dumps(text, indent=1, sort_keys=True) + "\n")


def read_grids(folder: Path) -> Found:
    """Return what `write_grids` wrote."""
    text = json.loads((folder / NAME).read_text())
    return Found(
        grids={int(steps): Grid(**grid) for steps, grid in text["grids"].items()},
        fine=Grid(**text["fine"]),
        scores={int(steps): score for steps, score in text["scores"].items()},
        method=text["method"],
    )
