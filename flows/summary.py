"""The table at the end of a run: the distance of each model to the data, its NFE and its cost."""

import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from fewstep.errors import UserError
from stages.artifacts import places, timings
from stages.artifacts.scratch import root
from stages.evaluation import kinds

EVALUATION = Path("artifacts/evaluate")
SHOWN = (kinds.OWN, kinds.EQUAL, kinds.FINE)  # what was searched is in the report


def read_rows(evaluation: Path) -> list[dict[str, Any]]:
    """Return the rows of metrics.json.

    Raises:
        UserError: There is none yet.
    """
    try:
        return json.loads((evaluation / "metrics.json").read_text())["rows"]
    except FileNotFoundError:
        raise UserError(f"{evaluation} has no metrics.json yet; `fewstep run` makes it") from None


def table(rows: list[dict[str, Any]], timings: dict[str, float]) -> Table:
    """Lay out a row for each model and NFE, students in bold.

    The first number is the distance to the data over the converged teacher's, with the larger of its standard
    error and its spread over the nets that measure.
    The floor stands beside the distance at the same number of samples, since both fall with that number.

    Args:
        rows: Rows of metrics.json.
        timings: Seconds per 1000 samples on this machine, by a row's name.

    Returns:
        A table for a terminal.
    """
    shown = [row for row in rows if row["grid"] in SHOWN]
    few = f"n={rows[0]['floor_samples']}"
    grid = Table(box=None, pad_edge=False)
    grid.add_column("model")
    for name in ("NFE", "÷ teacher", "fd_clf", f"at\n{few}", f"floor at\n{few}", "s per\n1000"):
        grid.add_column(name, justify="right")
    for row in shown:
        seconds = timings.get(row["name"])
        error = max(row["fd_over_teacher_se"], row["fd_over_teacher_spread"])
        grid.add_row(
            f"{row['model']}, fine" if row["grid"] == kinds.FINE else row["model"],
            str(row["nfe"]),
            f"{row['fd_over_teacher']:.3g} ± {error:.1g}",
            f"{row['fd_clf']:.3g} ± {row['fd_clf_se']:.1g}",
            f"{row['fd_at_floor_samples']:.3g}",
            f"{row['floor']:.3g}",
            "-" if seconds is None else f"{seconds:.3g}",
            style="bold" if row.get("student") else None,
        )
    return grid


def show(evaluation: Path) -> None:
    """Print the table and where the report is.

    Raises:
        UserError: There are no results yet.
    """
    Console().print(table(read_rows(evaluation), timings.read(root() / places.SAMPLING_SECONDS)))
    print(f"\nReport: {(evaluation / 'report.html').resolve()}")  # unwrapped, so that it can be clicked
