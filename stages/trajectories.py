"""Trajectories: a teacher's states at the timesteps of every grid searched for it, shared by its students."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from fewstep.lazy import lazy_imports
from stages.run.job import Job
from stages.run.runner import main
from stages.settings.fields import Precision, Settings, SolverName, fact_of_precision
from stages.settings.models import missing_flows
from stages.settings.params import Params

with lazy_imports():
    from fewstep import checkpoint, grids, noises
    from stages.sampling import estimate, splits, trajectories
    from stages.searching import grids_file

if TYPE_CHECKING:
    from stages.sampling.estimate import WorkLeft
    from stages.sampling.splits import Splits
    from stages.sampling.trajectories import TrajectoryMaker

VERSION = 2  # bump when the numbers this stage writes change


class Config(Settings):
    """Settings of the trajectories stage."""

    samples: int = Field(ge=1)
    """Trajectories to train on."""
    held_out: int = Field(256, ge=2)
    """Further trajectories, kept out of training for held-out losses."""
    solver: SolverName | None = None
    """What follows the fine timesteps of the search; null takes the solver that the search used."""
    batch: int = Field(128, ge=1)
    """Trajectories in one network call."""
    samples_per_shard: int = Field(1024, ge=1)
    """Trajectories in one shard; also the most work that a crash can lose."""
    keep: Literal["timesteps", "all"] = "timesteps"
    """Which states are stored: those at the timesteps of the searched grids, or at all times of the fine run,
    which students with jittered timesteps learn from."""
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    """How the states are stored."""
    precision: Precision = "float32"
    """Type in which the network computes; states are followed in float32."""


def inputs(config: Config, key: str | None) -> dict[str, str]:
    """Return the artifacts this stage reads."""
    return {"model": f"artifacts/models/{key}", "search": f"artifacts/search/{key}"}


def output(key: str | None) -> str:
    """Return where the outputs are published."""
    return f"artifacts/trajectories/{key}"


def check(params: Params) -> list[str]:
    """Return what is wrong across sections: each key must be a model, and searched."""
    keys, searched = params.keys("trajectories"), params.keys("search")
    problems = missing_flows(params, [(f"trajectories.{key}", key) for key in keys])
    return problems + [
        f"trajectories.{key} has no timesteps: add search.{key}" for key in keys if key not in searched
    ]


def work(config: Config, job: Job) -> tuple[Splits, TrajectoryMaker]:
    """Return what is to be made, and how: the fine steps of the search, and the timesteps of every budget."""
    found, digest = grids_file.read_grids(job.inputs["search"]), checkpoint.model_digest(job.inputs["model"])
    for grid in found.grids.values():
        grid.must_suit(model=digest)
    timesteps = sorted({time for grid in found.grids.values() for time in grid.times})
    fine = grids.with_timesteps(found.fine, timesteps)
    fine = replace(fine, solver=config.solver or fine.solver)
    if config.keep == "all":
        timesteps = list(fine.times)
    maker = trajectories.TrajectoryMaker(
        model=str(job.inputs["model"].resolve()),
        purpose=f"trajectories@{job.key}",
        seed=job.seed,
        fine=fine,
        timesteps=tuple(timesteps),
        batch=config.batch,
        precision=config.precision,
    )
    known = checkpoint.load_config(job.inputs["model"])
    guidance = known.guidance_shown(fine.guidance)
    facts = {"timesteps": timesteps, "fine_steps": fine.steps, "guidance": guidance}
    facts |= noises.fact_of(known.noise) | fact_of_precision(config.precision)
    facts |= {"solver": config.solver} if config.solver else {}
    facts |= checkpoint.load_conditions(job.inputs["model"]).facts()
    wanted = splits.splits(
        job,
        train=config.samples,
        held_out=config.held_out,
        per_shard=config.samples_per_shard,
        facts={"model": digest, "seed": job.seed, **facts},
        dtypes={"states": config.dtype},
    )
    return wanted, maker


def plan(config: Config, job: Job) -> WorkLeft:
    """Return what is still to be spent; see stages.sampling.estimate."""
    return estimate.estimate(*work(config, job), checked=0)


def run(config: Config, job: Job) -> None:
    """Follow the fine grid of the search and keep the states at the timesteps of every budget."""
    wanted, maker = work(config, job)
    opened = maker.open()  # a model that can't be followed is refused before workers start
    job.progress.note(estimate.estimate(wanted, maker, checked=0, opened=opened).line())
    wanted.make(maker)


if __name__ == "__main__":
    main(Path(__file__))
