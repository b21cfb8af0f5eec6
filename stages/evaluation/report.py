"""The evaluation as files: metrics.json for DVC, curve.csv for its plots, and the page report.html."""

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from fewstep.pictures import data_url
from stages.evaluation import kinds
from stages.evaluation.evaluation import Evaluation
from stages.evaluation.latent_bound import latent_bound
from stages.figures.curves import draw_grids, draw_quality
from stages.figures.sample_grid import draw_sample_grid
from stages.run.job import Job
from stages.settings import discovery

TEMPLATE = Path(__file__).with_name("report.html.j2")
RATIO = ("fd_over_teacher", "fd_over_teacher_se", "fd_over_teacher_spread")
HEADLINE = (*RATIO, "fd_clf", "fd_clf_se", "kid_clf", "precision", "recall", "outside", "endpoint_rmse")
CURVE = ("model", "grid", "nfe", *RATIO, "fd_clf", "fd_clf_se", "kid_clf", "endpoint_rmse")
PAIR_ROWS = (  # what is shown, what it should be, and where it is among the facts of a model
    ("pairs checked", "", "{checks[count]}"),
    ("noise: most deviating statistic, in standard errors", "below 6", "{checks[noise_z]:.2g}"),
    ("… which one", "", "{checks[noise_off]}"),
    ("noise: norm", "1", "{checks[noise_norm]:.4f}"),
    ("noise: least likely norm, in deviations", "", "{checks[worst_norm_z]:.2g}"),
    ("noise: neighbours correlate", "0", "{checks[noise_autocorrelation]:.4f}"),
    ("noise: duplicates", "0", "{checks[duplicates]}"),
    ("noise with data: correlation", "above 0", "{checks[correlation]:.2f}"),
    ("integrated back, noise is missed by", "small", "{checks[back_rmse]:.2g}"),
    ("… that of another pair by", "", "{checks[stranger_rmse]:.2g}"),
    ("noise of inverted pairs: most deviating statistic", "below 6", "{inverted_checks[noise_z]:.2g}"),
    ("followed from it, data is missed by", "small", "{inverted_checks[return_rmse]:.2g}"),
    ("… that of another inverted pair by", "", "{inverted_checks[stranger_rmse]:.2g}"),
    ("cost", "", "{checks[cost]:.4g}"),
    ("cost of random pairs", "above cost", "{checks[independent_cost]:.4g}"),
    ("S of the teacher", "", "{checks[straightness]:.3g}"),
    ("F of the teacher", "", "{checks[first_order]:.3g}"),
    ("V of the teacher", "", "{checks[crossing]:.3g}"),
    ("gap of the teacher", "0", "{checks[gap]:.2g} ± {checks[gap_se]:.2g}"),
    ("loss on training pairs", "", "{loss[train]:.3g}"),
    ("loss on fresh pairs", "", "{loss[held_out]:.3g}"),
    ("… over that on training pairs", "below 1.1", "{loss[ratio]:.2f}"),
)


def write_tables(folder: Path, evaluation: Evaluation) -> None:
    """Write metrics.json and curve.csv; `series` in the CSV names the line of a plot."""
    headline = {row["name"]: {name: row[name] for name in HEADLINE} for row in evaluation.rows}
    facts = {"teacher": evaluation.teacher, "fine_runs": evaluation.fine_runs}
    text = {"headline": headline, "rows": evaluation.rows, **facts}
    text |= {"features": evaluation.features} if evaluation.features else {}
    (folder / "metrics.json").write_text(json.dumps(text, indent=1) + "\n")
    with (folder / "curve.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["series", *CURVE])
        for row in evaluation.rows:
            table.writerow([series(row), *(row[name] for name in CURVE)])


def series(row: dict) -> str:
    """Return the name of the line that a row belongs to: a model, and what else tells its lines apart."""
    line = row["model"] if row["grid"] == kinds.OWN else f"{row['model']}, {row['grid']}"
    return f"{line}, guidance {row['guidance_given']:g}" if "guidance_given" in row else line


def write_report(job: Job, evaluation: Evaluation, settings: dict[str, Any]) -> None:
    """Draw the pictures and write the page, which holds them all; `settings` are the evaluation's own."""
    lines: dict[str, list[dict[str, Any]]] = {}
    for row in evaluation.rows:
        lines.setdefault(series(row), []).append(row)
    draw_quality(job.out / "curve.png", lines)
    draw_grids(
        job.out / "grids.png",
        [(row["name"], tuple(row["times"])) for row in evaluation.rows if row["grid"] != kinds.EQUAL],
    )
    grids_of_samples = draw_sample_grids(job.out, evaluation)
    page = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    text = page.from_string(TEMPLATE.read_text()).render(
        rows=evaluation.rows,
        teacher=evaluation.teacher,
        floor=evaluation.floor,
        fine_runs=evaluation.fine_runs,
        no_data=[m["facts"]["no_data"] for m in job.manifests.values() if "no_data" in m["facts"]],
        backends=evaluation.backends,
        first=evaluation.rows[0],
        best=best_by_nfe(evaluation.rows),
        curve=data_url((job.out / "curve.png").read_bytes()),
        grids=data_url((job.out / "grids.png").read_bytes()),
        texts=evaluation.texts,
        features=evaluation.features,
        columns=own_columns(evaluation),
        sample_grids=[(name, data_url(path.read_bytes())) for name, path in grids_of_samples],
        searches=[
            (name.removeprefix("search "), data_url((path / "search.png").read_bytes()))
            for name, path in sorted(job.inputs.items())
            if name.startswith("search ")
        ],
        pairs=pair_table(job),
        collapses=collapses(job),
        bound=latent_bound(job),
        reference=job.inputs["reference"].name,
        stages=[*made_by(job), {"address": "evaluate", "settings": json.dumps(settings, indent=1)}],
    )
    (job.out / "report.html").write_text(text)


def own_columns(evaluation: Evaluation) -> list[tuple[str, str]]:
    """Return what was measured by networks that the user asked for, as names of a network and of a number."""
    found = [
        (name, number)
        for row in evaluation.rows
        for name in evaluation.features
        for number in row["features"][name]
    ]
    return [each for each in dict.fromkeys(found) if not each[1].endswith("_se")]


def draw_sample_grids(folder: Path, evaluation: Evaluation) -> list[tuple[str, Path]]:
    """Draw a sample grid for each line of the curve, rows by NFE, and one of all students and the teacher."""
    named = list(zip(evaluation.rows, evaluation.sample_grids, strict=True))
    overview = [("data", evaluation.real)]
    overview += [(row["name"], samples) for row, samples in named if row["name"] == evaluation.teacher]
    overview += [(row["name"], samples) for row, samples in named if row["student"]]
    drawn = [("Students beside their teacher", folder / "samples.png")]
    draw_sample_grid(drawn[0][1], overview, evaluation.texts)
    for line in dict.fromkeys(series(row) for row in evaluation.rows if row["grid"] != kinds.OWN):
        path = folder / f"samples-{line.replace(',', '').replace(' ', '-')}.png"
        of_line = [(row["name"], samples) for row, samples in named if series(row) == line]
        draw_sample_grid(path, of_line, evaluation.texts)
        drawn.append((line, path))
    return drawn


def best_by_nfe(rows: list[dict[str, Any]]) -> list[str]:
    """Return the names of the best rows at each NFE."""
    nfe = sorted({row["nfe"] for row in rows})
    return [min((r for r in rows if r["nfe"] == n), key=lambda r: r["fd_over_teacher"])["name"] for n in nfe]


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


@dataclass(frozen=True)
class PairTable:
    """What the page shows."""

    models: list[str]
    rows: list[tuple[str, str, list[str]]]
    """What is shown, what it should be, and the cell of each model."""
    advice: list[tuple[str, list[str]]]
    """Sentences about each coupling, then about each model, by name."""


def pair_table(job: Job) -> PairTable:
    """Return the table of the models that learnt from pairs, in the order of the inputs."""
    facts: dict[str, dict[str, Any]] = {}
    advice: dict[str, list[str]] = {}
    learnt: dict[str, list[str]] = {}
    for name, manifest in job.manifests.items():
        if not name.startswith("model ") or "pair_loss" not in manifest["facts"]:
            continue
        pairs, loss = manifest["facts"].get("pairs", {}), manifest["facts"]["pair_loss"]
        model = name.removeprefix("model ")
        facts[model] = pairs | {"loss": loss}
        coupling = next(u["path"] for n, u in manifest["inputs"].items() if n in ("pairs", "train_on"))
        advice[f"pairs of couple/{Path(coupling).name}"] = pairs.get("problems", []) + pairs.get("advice", [])
        learnt[model] = [loss["advice"]]
    rows = [(label, good, [cell(text, found) for found in facts.values()]) for label, good, text in PAIR_ROWS]
    return PairTable(list(facts), rows, [*advice.items(), *learnt.items()])


def cell(text: str, facts: dict[str, Any]) -> str:
    """Return a row's text with a model's facts in it, "-" if it lacks them."""
    try:
        return text.format_map(facts)
    except (KeyError, TypeError):  # not measured, or None
        return "-"
