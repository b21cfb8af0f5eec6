"""Search: for each number of steps, the grid that ends nearest to a fine run of a model."""

from pathlib import Path

from pydantic import Field

from fewstep.errors import UserError
from fewstep.lazy import lazy_imports
from stages.process.device import device
from stages.run.job import Job
from stages.run.runner import main
from stages.settings.fields import Count, Guidance, Precision, SearchPlugin, Settings, SolverName
from stages.settings.models import teachers
from stages.settings.params import Params
from stages.settings.searched import wrong_searched

with lazy_imports():
    from fewstep import flow, searches
    from fewstep.searching import checked, noise
    from stages.searching import figures, grids_file, search_model

VERSION = 2  # bump when the numbers this stage writes change


class Config(Settings):
    """Settings of the search stage; its key is the model's name."""

    teacher: str
    """The model whose fine run gives the true ends: the searched model itself; for a student whose timesteps
    were jittered in training, its teacher; for a flow map, either. Its own fine run is of its velocities at
    one time."""
    method: SearchPlugin
    """The search, a file of fewstep.searches, and its options; `best` chooses among all."""
    budgets: tuple[Count, ...] = Field(min_length=1)
    """Numbers of steps to find a grid for; one search serves all."""
    solver: SolverName = "euler"
    """The solver that will take the steps; students learn Euler steps."""
    guidance: Guidance = 1.0
    """Classifier-free guidance scale the model will be sampled with, or, where the teacher is another, the
    one that it learnt from that, or one of its range; 1 is none."""
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
    problems = wrong_searched(params)
    for key, config in configs.items():
        where, method = f"search.{key}", config.method
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
    if not configs and there:
        named = " or ".join(f"search.{name}" for name in there)
        problems.append(
            "search is empty, but evaluate, export and distill read artifacts/search, which no stage then "
            f"makes: add {named}"
        )
    return problems


def run(config: Config, job: Job) -> None:
    """Write grids.json (every budget and search, with scores), the costs of jumps, and pictures."""
    method = config.method.options
    searched = search_model.open_searched(job, method, config.guidance, config.precision)
    model = searched.model
    problem = searches.Problem(
        checked.Checked(flow.as_flow(model, guidance=searched.guidance)),
        noise.Drawn(job.seed, model.config.shape, model.noise, model.conditions, config.batch, device()),
        config.budgets,
        config.solver,
        truth_steps=config.truth_steps,
        student=searched.student,
        teacher=searched.teacher,
        progress=job.progress,
    )
    checked.probe(problem)
    found, jumps = search_model.search_model(
        job,
        problem,
        config.method,
        teacher=config.teacher,
        guidance=searched.guidance,
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
