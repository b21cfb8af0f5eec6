"""Search: for each number of steps, the grid that ends nearest to a fine run of a model."""

from pathlib import Path

from etils.epy import lazy_imports
from pydantic import Field

from fewstep.errors import UserError
from fewstep.searches import keeping_to_timesteps
from stages.process.device import device
from stages.run.job import Job
from stages.run.runner import main
from stages.settings.fields import Count, Guidance, Precision, SearchPlugin, Settings, SolverName
from stages.settings.models import jittered, missing_flows, teachers, unguidable
from stages.settings.params import Params

with lazy_imports():
    from fewstep import searches
    from fewstep.searching import checked, noise
    from stages.searching import figures, grids_file, search_model

VERSION = 2  # bump when the numbers this stage writes change


class Config(Settings):
    """Settings of the search stage; its key is the model's name."""

    teacher: str
    """The model whose fine run gives the true ends: the searched model itself; for a student whose
    timesteps were jittered in training, its teacher."""
    method: SearchPlugin
    """The search, a file of fewstep.searches, and its options; `best` chooses among all."""
    budgets: tuple[Count, ...] = Field(min_length=1)
    """Numbers of steps to find a grid for; one search serves all."""
    solver: SolverName = "euler"
    """The solver that will take the steps; students learn Euler steps."""
    guidance: Guidance = 1.0
    """Classifier-free guidance scale the model will be sampled with, or, for a student, the one that it
    learnt from its teacher; 1 is none."""
    batch: int = Field(128, ge=1)
    """Noises in one network call."""
    truth_steps: int = Field(64, ge=1)
    """Equal Heun steps of the fine run that gives the true ends."""
    precision: Precision = "float32"
    """Type in which the network computes; states stay float32."""
    report_noises: int = Field(4096, ge=2)
    """Fresh noises on which the grids found are scored."""


def inputs(config: Config, key: str | None) -> dict[str, str]:
    """Return the artifacts this stage reads."""
    return {
        name: f"artifacts/models/{model}" for name, model in (("model", key), ("teacher", config.teacher))
    }


def output(key: str | None) -> str:
    """Return where the outputs are published."""
    return f"artifacts/search/{key}"


def check(params: Params) -> list[str]:
    """Return what is wrong across sections: each key must be a model that can do what is asked of it."""
    configs = {key: params.config("search", key) for key in params.keys("search")}
    students = jittered(params)
    problems = missing_flows(params, [(f"search.{key}", key) for key in configs if key not in students])
    problems += unguidable(
        params,
        [(f"search.{key}.guidance", c.guidance, students.get(key, key)) for key, c in configs.items()],
    )
    for key, config in configs.items():
        where, method = f"search.{key}", config.method
        teacher, whose = (students[key], "its teacher") if key in students else (key, "the model itself")
        if config.teacher != teacher:
            problems.append(f"{where}.teacher {config.teacher!r} must be {teacher!r}, {whose}")
        if key in students:
            nfe = params.config("distill", key).nfe
            problems += of_a_student(where, config, nfe, configs.get(teacher))
        if config.report_noises < (fewest := method.options.fewest_to_report):
            problems.append(
                f"{where}.report_noises {config.report_noises} is too few to tell the best search from luck; "
                f"set {fewest} or more, or name one search as the method"
            )
        try:
            method.options.check(config.budgets, config.solver)
        except UserError as error:
            problems.append(f"{where}.budgets: {error}")
    there = teachers(params)  # without one, evaluate says what is missing
    if not configs and params.keys("distill") and there:
        named = " or ".join(f"search.{name}" for name in there)
        problems.append(f"search is empty, but every student needs a grid: add {named}")
    return problems


def of_a_student(where: str, config: Config, nfe: int, of_teacher: Config | None) -> list[str]:
    """Return what is wrong with the search of a student, given that of its teacher."""
    problems = []
    if config.method.options.all_times:
        problems.append(
            f"{where}.method {config.method.name} asks for velocities at all times, but a student knows "
            f"those near its timesteps alone; use {' or '.join(keeping_to_timesteps())}"
        )
    if config.budgets != (nfe,) or config.solver != "euler":
        problems.append(
            f"{where} is of a student of {nfe} euler steps: set budgets to [{nfe}], solver to euler"
        )
    if of_teacher is not None and config.guidance != of_teacher.guidance:
        problems.append(
            f"{where}.guidance {config.guidance} must be {of_teacher.guidance}, that of its teacher's search"
        )
    return problems


def run(config: Config, job: Job) -> None:
    """Write grids.json (every budget and search, with scores), the costs of jumps, and pictures."""
    method = config.method.options
    searched, flow, student = search_model.open_searched(job, method, config.guidance, config.precision)
    problem = searches.Problem(
        checked.Checked(flow),
        noise.Drawn(
            job.seed, searched.config.shape, searched.noise, searched.conditions, config.batch, device()
        ),
        config.budgets,
        config.solver,
        truth_steps=config.truth_steps,
        student=student,
        progress=job.progress,
    )
    checked.probe(problem)
    found, jumps = search_model.search_model(
        job,
        problem,
        config.method,
        teacher=config.teacher,
        guidance=config.guidance,
        precision=config.precision,
        report_noises=config.report_noises,
    )
    grids_file.write_grids(job.out, found, jumps)
    figures.draw_search(job.out, found, jumps)
    for picture in sorted(job.out.glob("*.png")):
        job.picture(picture.stem, picture)
    job.facts["endpoint_rmse"] = {
        str(steps): {name: own[name]["rmse"] for name in (found.baseline, config.method.name)}
        for steps, own in found.scores.items()
    }


if __name__ == "__main__":
    main(Path(__file__))
