"""The page of a stage's result in markdown: its picture, its numbers, and links."""

import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from PIL import Image

from fewstep import pictures
from stages.tracking.tracking import flatten

PICTURES = ("samples.png", "grids.png")
LETTERS_OF_A_PICTURE = 190_000  # more than that makes Prefect's page slow
ROWS = 40
HEADLINE = ("fd_over_teacher", "fd_over_teacher_se", "fd_over_teacher_spread", "recall", "outside")


def page(name: str, out: Path, manifest: dict[str, Any], run: str | None) -> str:
    """Return the page of the result of a stage; `run` is the address of its tracked run."""
    parts = [f"# {name}"]
    parts += [f"![{file}]({data_url(out / file)})" for file in PICTURES if (out / file).exists()][:1]
    if run:
        parts.append(f"[MLflow run]({run})")
    if (report := out / "report.html").exists():
        there = f"[report.html]({run}/artifacts/output/report.html), " if run and "?" not in run else ""
        parts.append(f"Report: {there}`{report.resolve()}`")
    if (metrics := out / "metrics.json").exists():
        parts.append(headline(json.loads(metrics.read_text())["headline"]))
    facts = flatten({"seed": manifest["seed"], "version": manifest["version"]} | manifest["facts"])
    parts.append(table(("fact", "value"), list(facts.items())[:ROWS]))
    parts.append(f"Fingerprint: `{manifest['fingerprint']}`")
    return "\n\n".join(parts)


def headline(rows: dict[str, dict[str, float]]) -> str:
    """Return the headline of an evaluation as a table."""
    return table(("", *HEADLINE), [(name, *(row.get(it) for it in HEADLINE)) for name, row in rows.items()])


def table(titles: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    """Return a table in markdown."""
    lines = [list(titles)]
    lines += [["---"] * len(lines[0])]
    lines += [[shown(value) for value in row] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def shown(value: Any) -> str:
    """Return a value as a short text for a cell."""
    text = "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
    return text[:80].replace("|", "\\|").replace("\n", " ")


def data_url(file: Path) -> str:
    """Return a PNG as an address that holds it, halved until it is small enough."""
    png = file.read_bytes()
    while len(png) * 4 / 3 > LETTERS_OF_A_PICTURE:
        png = halved(png)
    return pictures.data_url(png)


def halved(png: bytes) -> bytes:
    """Return a picture at half its width and height."""
    small = io.BytesIO()
    Image.open(io.BytesIO(png)).convert("RGB").reduce(2).save(small, "PNG", optimize=True)
    return small.getvalue()
