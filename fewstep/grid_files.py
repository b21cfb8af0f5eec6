"""A file of grids, as `fewstep search` and the stage search write it."""

import json
from pathlib import Path
from typing import Any

from fewstep.errors import UserError
from fewstep.files import read_text
from fewstep.grids import Grid
from fewstep.named_fields import made_of


def read(file: Path, steps: int | None) -> Grid:
    """Return a grid of a file that `fewstep search`, or the stage search, wrote.

    Raises:
        UserError: It is no such file, or `steps` does not name one of its grids.
    """
    try:
        listed = json.loads(read_text(file))["grids"].items()
        found = {int(name): made_of(Grid, grid) for name, grid in listed}
    except FileNotFoundError:
        raise UserError(f"there is no {file}; `fewstep search` writes one") from None
    except UserError as error:
        raise UserError(f"{file} holds no grids: {error}") from error
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{file} holds no grids; `fewstep search` writes a file that does") from None
    if steps is None and len(found) == 1:
        return next(iter(found.values()))
    if steps not in found:
        asked = "say which by --steps" if steps is None else f"--steps {steps} is not among them"
        raise UserError(f"{file} has grids of {', '.join(map(str, sorted(found)))} steps; {asked}")
    return found[steps]


def table(found: dict[int, Grid], scores: dict[str, Any]) -> str:
    """Return lines for a terminal: the times of each grid, and what was measured of it and of equal steps."""
    lines = []
    for steps, grid in found.items():
        lines.append(f"{steps:3} steps  t = {' '.join(f'{t:.4g}' for t in grid.times)}")
        for name, score in scores.get(str(steps), {}).items():
            interval = f"{score['rmse_low']:.4g} to {score['rmse_high']:.4g}"
            lines.append(f"           {name}: endpoint rmse {score['rmse']:.4g} (95 %: {interval})")
    return "\n".join(lines)
