"""Distill: a student that needs few calls, on the grid searched for its teacher."""

from pathlib import Path

from pydantic import Field

from fewstep import registry
from fewstep.settings import MonitorSettings, TrainSettings
from stages._models import doubled_models, wrong_labels
from stages._params import MethodPlugin, Params, Settings
from stages._runner import Job, main

VERSION = 1  # bump when the numbers this stage writes change


class Config(Settings):
    """Settings of the distill stage; each key is a student."""

    method: MethodPlugin
    """The training method, a file of fewstep.methods, and its options."""
    teacher: str
    """The model whose weights (their moving average) the student starts from, and whose grid it uses."""
    coupling: str
    """What it learns from: trajectories/<teacher> for straighten, couple/<key> for endpoint."""
    calls: int = Field(ge=1)
    """Network calls the student samples with; one of the budgets searched for its teacher."""
    train: TrainSettings
    """The training loop."""
    monitor: MonitorSettings | None = None
    """How the training is watched, so that it ends with its best weights; {} is usual, null is not at all."""


def inputs(config: Config, key: str | None) -> dict[str, str]:
    """Return the artifacts this stage reads."""
    return {
        "teacher": f"artifacts/models/{config.teacher}",
        "search": f"artifacts/search/{config.teacher}",
        "coupling": f"artifacts/{config.coupling}",
        "data": "artifacts/prepare",
    }


def output(key: str | None) -> str:
    """Return where the outputs are published."""
    return f"artifacts/models/{key}"


def check(params: Params) -> list[str]:
    """Return what is wrong between students and the sections they build on."""
    problems = doubled_models(params)
    models = ["pretrain", *params.keys("reflow")]
    couplings = [f"{stage}/{key}" for stage in ("couple", "trajectories") for key in params.keys(stage)]
    fitting = fitting_methods()
    for key in params.keys("distill"):
        student, where = params.config("distill", key), f"distill.{key}"
        problems += wrong_labels(params, [(f"{where}.method", student.method)])
        if (name := student.method.name) not in fitting:
            problems.append(f"{where}.method {name} learns from data; here fit: {', '.join(fitting)}")
        if student.teacher not in models:
            problems.append(
                f"{where}.teacher {student.teacher!r} is no model; there are: {', '.join(models)}"
            )
        elif student.teacher not in params.keys("search"):
            problems.append(
                f"{where}.teacher {student.teacher!r} is not searched: add search.{student.teacher}"
            )
        elif (solver := params.config("search", student.teacher).solver) != "euler":
            problems.append(
                f"{where} learns Euler steps, but search.{student.teacher}.solver is {solver!r}; search its "
                "teacher for euler"
            )
        elif student.calls not in (budgets := params.config("search", student.teacher).budgets):
            problems.append(
                f"{where}.calls {student.calls} is not among the budgets searched for {student.teacher}, "
                f"{list(budgets)}; add it to search.{student.teacher}.budgets"
            )
        if student.coupling not in couplings:
            problems.append(
                f"{where}.coupling {student.coupling!r} does not exist; there are: {', '.join(couplings)}"
            )
        elif student.teacher in params.keys("search") and (problem := mismatch(student, params)):
            problems.append(f"{where}: {problem}")
    return problems


def fitting_methods() -> list[str]:
    """Return the methods that can learn from what a teacher made."""
    methods = {name: registry.find("fewstep.methods", name) for name in registry.available("fewstep.methods")}
    return [name for name, method in methods.items() if method.stream != "data"]


def mismatch(student: Config, params: Params) -> str | None:
    """Say why a student can't learn from its coupling, None if it can."""
    method, (kind, source) = student.method, student.coupling.split("/")
    wanted = {"knots": "trajectories", "pairs": "couple"}.get(method.build().stream)
    if wanted not in (None, kind):
        return f"method {method.name} learns from {wanted}/..., not from {student.coupling}"
    if kind == "trajectories" and source != student.teacher:
        return f"{student.coupling} is not of its teacher; use trajectories/{student.teacher}"
    jitter = method.build().trained().get("jitter")
    if jitter and kind == "trajectories" and params.config(kind, source).keep != "all":
        return f"jitter {jitter} learns from states between the knots; set trajectories.{source}.keep to all"
    if kind == "couple" and (pairs := params.config(kind, source)).model == student.teacher:
        grid = params.config("search", student.teacher)
        if pairs.guidance != grid.guidance:
            return (
                f"{student.coupling} has guidance {pairs.guidance}, the grid of its teacher, "
                f"search.{student.teacher}, has {grid.guidance}; make them equal"
            )
    return None


def run(config: Config, job: Job) -> None:
    """Train a copy of the teacher for the grid of its budget, and write the student's directory."""
    from dataclasses import replace
    from functools import partial

    from fewstep.checkpoint import model_digest
    from fewstep.model import Model
    from fewstep.shards import Shards
    from stages._flows import open_model
    from stages._grids import read_grids
    from stages._knots import at_knots, with_times
    from stages._training import train_model

    method, teacher = config.method.build(), open_model(job.inputs["teacher"])
    grid = read_grids(job.inputs["search"]).grid(config.calls, asked_by=f"distill@{job.key}")
    grid.must_suit(model=model_digest(job.inputs["teacher"]), solver="euler")
    source = job.inputs["coupling"]
    coupling = Shards(source / "train")
    if "guidance" in coupling.facts and coupling.facts["model"] == grid.model_digest:
        grid.must_suit(model=grid.model_digest, guidance=coupling.facts["guidance"])
    own = replace(grid, guidance=1.0)  # what guidance does is in the coupling; the student samples without
    student = Model(replace(teacher.config, grid=own, **method.trained()), teacher.network)
    select = None
    if method.stream == "knots":
        stored = coupling.facts["knots"]
        select = partial(with_times, stored) if student.config.jitter else partial(at_knots, stored, own)
    train_model(job, method, student, config.train, source=source, select=select, monitor=config.monitor)


if __name__ == "__main__":
    main(Path(__file__))
