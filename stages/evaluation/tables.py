"""The evaluation as files that tools read: metrics.json for DVC, curve.csv for its plots."""

import csv
import json
from pathlib import Path

from stages.evaluation.evaluation import Evaluation

HEADLINE = ("fd_clf", "fd_clf_se", "fd_over_teacher", "kid_clf", "precision", "recall", "endpoint_rmse")
CURVE = ("model", "grid", "nfe", "fd_clf", "fd_clf_se", "kid_clf", "endpoint_rmse")


def write_tables(folder: Path, evaluation: Evaluation) -> None:
    """Write both; `series` in the CSV names the line of a plot."""
    headline = {row["name"]: {name: row[name] for name in HEADLINE} for row in evaluation.rows}
    text = {"headline": headline, "rows": evaluation.rows, "teacher": evaluation.teacher}
    (folder / "metrics.json").write_text(json.dumps(text, indent=1) + "\n")
    with (folder / "curve.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["series", *CURVE])
        for row in evaluation.rows:
            table.writerow([series(row), *(row[name] for name in CURVE)])


def series(row: dict) -> str:
    """Return the name of the line that a row belongs to: a model, and its grid if it has several."""
    return row["model"] if row["grid"] == "own" else f"{row['model']}, {row['grid']}"
