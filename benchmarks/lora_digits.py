"""A student of four steps on digits, trained in all its weights and as an adapter, beside its teacher.

Run `python -m benchmarks.lora_digits [artifacts]` after `make run`, whose pretrained model, search and
trajectories it reads. Printed is the root mean square distance of 1024 samples to where the teacher ends in
64 steps of Heun from the same noise, and how many numbers were trained.
"""

import sys
import tempfile
from pathlib import Path

import torch

from benchmarks._students import STRAIGHT
from fewstep import grids
from fewstep.checkpoint import load_model
from fewstep.draws import draws_of
from fewstep.flow import as_flow
from fewstep.model import Model
from fewstep.progress import SILENT
from fewstep.solvers import integrate
from stages import distill
from stages.run.job import Job

NOISES = 1024
WAYS = [(None, 5e-4), (None, 2e-3), (2, 2e-3), (2, 1e-2)]


def train(artifacts: Path, folder: Path, rank: int | None, rate: float) -> Job:
    """Run the stage in `folder`, and return its job."""
    lora = rank and {"rank": rank, "alpha": rank}
    settings = STRAIGHT | {"train": STRAIGHT["train"] | {"learning_rate": rate}, "lora": lora}
    for name in ("out", "scratch"):
        (folder / name).mkdir()
    places = {
        "init": "models/base",
        "teacher": "models/base",
        "search": "search/base",
        "train_on": "trajectories/base",
        "data": "prepare",
    }
    job = Job(
        stage="distill",
        key="straight-4",
        seed=0,
        inputs={name: artifacts / place for name, place in places.items()},
        out=folder / "out",
        scratch=folder / "scratch",
        result="benchmark",
        progress=SILENT,
        picture=lambda name, file: None,
    )
    distill.run(distill.Config.model_validate(settings), job)
    return job


@torch.no_grad()
def ends(model: Model, grid: grids.Grid) -> torch.Tensor:
    """Return where a model's samples end."""
    ((noise, conditions),) = draws_of(model, "benchmark", 0, range(NOISES), batch=NOISES)
    return integrate(as_flow(model), noise, grid, **conditions).x


def main(artifacts: Path) -> None:
    """Print a row for each way to train."""
    torch.set_num_threads(1)
    teacher = load_model(artifacts / "models/base")
    wanted = ends(teacher, grids.uniform(64, solver="heun"))
    print("| trained | learning rate | numbers trained | distance to the teacher's end |")
    print("|---|---|---|---|")
    for rank, rate in WAYS:
        with tempfile.TemporaryDirectory() as name:
            job = train(artifacts, Path(name), rank, rate)
            student = load_model(job.out)
        grid = student.config.grid
        assert grid is not None
        if rank is None and rate == WAYS[0][1]:
            before = (ends(teacher, grid) - wanted).square().mean().sqrt()
            print(f"| nothing: the teacher in its steps | - | 0 | {before:.4f} |")
        count = job.facts.get("lora_parameters", job.facts["parameters"])
        distance = (ends(student, grid) - wanted).square().mean().sqrt()
        what = "all weights" if rank is None else f"an adapter of rank {rank}"
        print(f"| {what} | {rate:g} | {count} | {distance:.4f} |", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1] if sys.argv[1:] else "artifacts"))
