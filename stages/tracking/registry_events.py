"""What the model registry is told of a result: that it is a model, or how good the models are."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stages.artifacts import manifests

WEIGHTS = "model.safetensors"
OWN = "own"  # the grid of a student: it alone tells the NFE of the model
HELD_AGAINST = ("backend", "samples", "blocks", "seed")  # in a row of metrics.json


def model_files(out: Path) -> list[Path]:
    """Return the files of a result that is a model; [] if it is none."""
    files = [out / name for name in (WEIGHTS, "config.json", manifests.NAME)]
    return files if (out / WEIGHTS).exists() and (out / "config.json").exists() else []


def scores(out: Path, manifest: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield what an evaluation found of each student; nothing if the result is no evaluation.

    Only numbers of one yardstick compare: the same data and classifier, as many samples, the same noise.
    """
    if not (out / "metrics.json").exists():
        return
    for row in json.loads((out / "metrics.json").read_text())["rows"]:
        if row["grid"] == OWN:
            data = manifest["inputs"]["data"]["fingerprint"]
            held_against = [data, manifest["version"], *(row[name] for name in HELD_AGAINST)]
            yield {
                "model": row["model"],
                "fingerprint": manifest["inputs"][f"model {row['model']}"]["fingerprint"],
                "nfe": row["nfe"],
                "fd_clf": row["fd_clf"],
                "fd_clf_se": row["fd_clf_se"],
                "yardstick": hashlib.sha256(json.dumps(held_against).encode()).hexdigest()[:16],
            }
