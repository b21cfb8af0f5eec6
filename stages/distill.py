"""Distill: a student that needs few calls, on the grid searched for its teacher, or on any."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

from fewstep.errors import UserError
from fewstep.lazy import lazy_imports
from fewstep.settings import MonitorSettings, TrainSettings
from stages.run.job import Job
from stages.run.runner import main
from stages.settings.models import doubled_models
from stages.settings.params import Params
from stages.settings.students import StudentSettings, must_continue, must_keep_guidance, wrong_students
from stages.settings.trainings import wrong_monitor, wrong_training

with lazy_imports():
    from fewstep import checkpoint, lora, refining, shards
    from fewstep.training import needed_inputs
    from stages.sampling import open_model
    from stages.searching import grids_file
    from stages.training import memory_plan, task, training

VERSION = 8  # bump when the numbers this stage writes change


class Config(StudentSettings):
    """Settings of the distill stage, each key of which is a student; with what a student is made of."""

    train: TrainSettings
    """The training loop."""
    monitor: MonitorSettings | None = None
    """How the training is watched, so that it ends with its best weights; {} is usual, null is not at all."""


def inputs(config: Config, key: str | None) -> dict[str, str]:
    """Return the artifacts this stage reads."""
    return {
        "init": f"artifacts/models/{config.init}",
        "teacher": f"artifacts/models/{config.teacher}",
        "search": f"artifacts/search/{config.teacher}",
        "train_on": f"artifacts/{config.train_on}",
        "data": "artifacts/prepare",
    } | ({"nets": "artifacts/nets"} if config.monitor or config.method.options.needs.features else {})


def output(key: str | None) -> str:
    """Return where the outputs are published."""
    return f"artifacts/models/{key}"


def check(params: Params) -> list[str]:
    """Return what is wrong between students and the sections they build on."""
    problems = doubled_models(params) + wrong_students(params)
    for key in params.keys("distill"):
        student = params.config("distill", key)
        told = wrong_training(student.train, student.train_on, params)
        problems += [f"distill.{key}{problem}" for problem in told]
        problems += [f"distill.{key}.monitor{problem}" for problem in wrong_monitor(key, params)]
    return problems


def run(config: Config, job: Job) -> None:
    """Train a copy of a model for the grid of its teacher and budget, or any, and write its directory."""
    training.train_model(job, training_spec(config, job))


def plan(config: Config, job: Job) -> memory_plan.MemoryPlan:
    """Return what memory the training takes."""
    return memory_plan.plan_memory(job, training_spec(config, job))


def training_spec(config: Config, job: Job) -> training.TrainingSpec:
    """Return the student before its training."""
    method = config.method.options
    init = open_model.open_model(job.inputs["init"], merge=config.lora is None)
    found = grids_file.read_grids(job.inputs["search"])
    grid = found.fine if config.nfe == "any" else found.grid(config.nfe, asked_by=f"distill@{job.key}")
    grid.must_suit(model=checkpoint.model_digest(job.inputs["teacher"]))
    source = job.inputs["train_on"]
    facts = shards.Shards(source / "train").facts
    teacher = checkpoint.load_config(job.inputs["teacher"])
    if "guidance" in facts and facts["model"] == grid.model_digest:
        shown = replace(grid, guidance=teacher.guidance_shown(grid.guidance))
        shown.must_suit(model=facts["model"], guidance=facts["guidance"])
    # What guidance does is in the coupling; the student samples without.
    own = None if config.nfe == "any" else replace(grid, guidance=1.0)
    if config.model is None:
        must_continue(config.init, init.config, own)
        must_keep_guidance(config.init, init.config, method)
    taught = {
        "grid": own,
        "learned_from": None,
        "baked_guidance": facts.get("guidance", init.config.baked_guidance),
        "in_range": shards.Shards(job.inputs["data"] / "train").facts["pixels"],
    }
    if method.needs.last_velocity:
        assert config.model is not None, "settings refuse it"
        digest = checkpoint.model_digest(job.inputs["init"])
        student = refining.refiner_for(init, config.model.named(), seed=job.seed, digest=digest)
    else:
        student = training.student_of(init, {}, config.model, seed=job.seed)
    if method.needs.flow_map and student.config.velocity_until != "any":
        raise UserError(
            f"init {config.init!r} is no flow map, which method {config.method.name} trains further; "
            "set init to a student with nfe any"
        )
    student = needed_inputs.with_needed(student, method.needs, split_after=config.split_after, seed=job.seed)
    taught |= method.trained()
    asks = method.needs.teacher and not method.needs.last_velocity
    if "baked_guidance" in method.trained() and asks:
        taught["baked_guidance"] = teacher.guidance_shown(taught["baked_guidance"])
    student = training.student_of(student, taught, None, seed=job.seed)
    if config.lora is not None:
        base = checkpoint.model_digest(job.inputs["init"])
        student = lora.with_lora(student, config.lora, seed=job.seed, base=base)
    select = None
    if method.needs.stream == "trajectories":
        stored = facts["timesteps"]
        if method.needs.all_states:
            select = partial(task.with_times, stored)
        else:
            assert own is not None, "only methods that need all states train for any number of calls"
            select = partial(task.at_timesteps, stored, own)
    return training.TrainingSpec(method, student, config.train, source, select, config.monitor)


if __name__ == "__main__":
    main(Path(__file__))
