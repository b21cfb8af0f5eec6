"""What a stage's functions are given, for tests that call them without the machinery around."""

from pathlib import Path
from typing import Any

from torch import Tensor

from fewstep.checkpoint import model_digest
from fewstep.progress import SILENT, Silent
from fewstep.shards import write_shards
from stages.run.job import Job


class Listener(Silent):
    """Keeps what is noted."""

    def __init__(self, said: list[str]) -> None:
        self.said = said

    def note(self, text: str) -> None:
        self.said.append(text)


def job_in(folder: Path, stage: str, key: str | None = None, **changes: Any) -> Job:
    """Return a job whose folders, `out` and `work`, lie in `folder`; they are made unless given."""
    places = {"out": folder / "out", "scratch": folder / "work"}
    for name, place in places.items():
        if name not in changes:
            place.mkdir(parents=True, exist_ok=True)
    facts = {
        "seed": 0,
        "inputs": {"data": folder / "prepared"},
        "result": f"{stage}@{key}.0",
        "progress": SILENT,
    }
    return Job(stage=stage, key=key, **places | facts | changes)


def write_pairs(folder: Path, model: Path, *, scale: float, **noise: Tensor) -> None:
    """Write each split's noise, (n, *shape), and its data, `scale` times that, as pairs of a model."""
    facts = {"guidance": 1.0, "model": model_digest(model)}
    for split, rows in noise.items():

        def make(a: int, b: int, rows: Tensor = rows) -> dict[str, Tensor]:
            return {"noise": rows[a:b], "data": scale * rows[a:b]}

        write_shards(folder / split, len(rows), 32, make, facts=facts)
