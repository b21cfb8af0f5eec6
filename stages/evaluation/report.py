"""report.html: one self-contained page of what was run and what came of it."""

import base64
import json
from pathlib import Path
from typing import Any

import jinja2

from stages.evaluation.evaluation import Evaluation
from stages.evaluation.pair_table import pair_table
from stages.evaluation.tables import series
from stages.figures.curves import draw_grids, draw_quality
from stages.figures.sample_grid import draw_sample_grid
from stages.run.job import Job
from stages.settings import discovery

TEMPLATE = Path(__file__).with_name("report.html.j2")


def write_report(job: Job, evaluation: Evaluation, settings: dict[str, Any]) -> None:
    """Draw the pictures and write the page, which holds them all; `settings` are the evaluation's own."""
    lines: dict[str, list[dict[str, Any]]] = {}
    for row in evaluation.rows:
        lines.setdefault(series(row), []).append(row)
    draw_quality(job.out / "curve.png", lines)
    draw_grids(
        job.out / "grids.png",
        [(row["name"], tuple(row["times"])) for row in evaluation.rows if row["grid"] != "uniform"],
    )
    grids_of_samples = draw_sample_grids(job.out, evaluation)
    page = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    text = page.from_string(TEMPLATE.read_text()).render(
        rows=evaluation.rows,
        teacher=evaluation.teacher,
        floor=evaluation.floor,
        backend=evaluation.backend,
        first=evaluation.rows[0],
        best=best_by_nfe(evaluation.rows),
        curve=picture(job.out / "curve.png"),
        grids=picture(job.out / "grids.png"),
        sample_grids=[(name, picture(path)) for name, path in grids_of_samples],
        searches=[
            (name.removeprefix("search "), picture(path / "search.png"))
            for name, path in sorted(job.inputs.items())
            if name.startswith("search ")
        ],
        pairs=pair_table(job),
        collapses=collapses(job),
        stages=[*made_by(job), {"address": "evaluate", "settings": json.dumps(settings, indent=1)}],
    )
    (job.out / "report.html").write_text(text)


def draw_sample_grids(folder: Path, evaluation: Evaluation) -> list[tuple[str, Path]]:
    """Draw a sample grid for each line of the curve, rows by NFE, and one of all students and the teacher."""
    named = list(zip(evaluation.rows, evaluation.sample_grids, strict=True))
    overview = [("data", evaluation.real)]
    overview += [(row["name"], samples) for row, samples in named if row["name"] == evaluation.teacher]
    overview += [(row["name"], samples) for row, samples in named if row["grid"] == "own"]
    drawn = [("Students beside their teacher", folder / "samples.png")]
    draw_sample_grid(drawn[0][1], overview)
    for line in dict.fromkeys(series(row) for row in evaluation.rows if row["grid"] != "own"):
        path = folder / f"samples-{line.replace(', ', '-')}.png"
        draw_sample_grid(path, [(row["name"], samples) for row, samples in named if series(row) == line])
        drawn.append((line, path))
    return drawn


def best_by_nfe(rows: list[dict[str, Any]]) -> list[str]:
    """Return the names of the best rows at each NFE."""
    nfe = sorted({row["nfe"] for row in rows})
    return [min((r for r in rows if r["nfe"] == n), key=lambda r: r["fd_clf"])["name"] for n in nfe]


def picture(path: Path) -> str:
    """Return a PNG as a data URL."""
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()


def collapses(job: Job) -> list[tuple[str, str]]:
    """Return the models whose training collapsed on the way, with what its monitor said."""
    return [
        (name.removeprefix("model "), told)
        for name, manifest in job.manifests.items()
        if name.startswith("model ") and (told := manifest["facts"].get("monitor", {}).get("collapse"))
    ]


def made_by(job: Job) -> list[dict[str, Any]]:
    """Return how every stage of the chain made what this evaluation rests on, in order."""
    return [
        {
            "address": discovery.address(manifest["stage"], manifest["key"]),
            "fingerprint": manifest["fingerprint"],
            "settings": json.dumps(manifest["config"], indent=1),
            "facts": json.dumps(manifest["facts"], indent=1),
        }
        for manifest in job.ancestors
    ]
