"""Search: for each number of steps, the grid that ends nearest to a fine run of a model."""

from pathlib import Path

from pydantic import Field

from fewstep.errors import UserError
from stages._models import missing_flows, unguidable
from stages._params import Count, Guidance, Params, SearchPlugin, Settings, SolverName
from stages._runner import Job, main

VERSION = 2  # bump when the numbers this stage writes change

FEWEST_TO_REPORT = 4096
"""Noises to score on, below which a choice among searches can't be told from luck."""


class Config(Settings):
    """Settings of the search stage; its key is the model's name."""

    method: SearchPlugin
    """The search, a file of fewstep.searches, and its options; `best` chooses among all."""
    budgets: tuple[Count, ...] = Field(min_length=1)
    """Numbers of steps to find a grid for; one search serves all."""
    solver: SolverName = "euler"
    """The solver that will take the steps; students learn Euler steps."""
    guidance: Guidance = 1.0
    """Classifier-free guidance scale the model will be sampled with; 1 is none."""
    batch: int = Field(128, ge=1)
    """Noises in one network call."""
    truth_steps: int = Field(64, ge=1)
    """Equal Heun steps of the fine run that the end of a grid is held against."""
    report_noises: int = Field(FEWEST_TO_REPORT, ge=2)
    """Fresh noises on which the grids found are scored."""


def inputs(config: Config, key: str | None) -> dict[str, str]:
    """Return the artifacts this stage reads."""
    return {"model": f"artifacts/models/{key}"}


def output(key: str | None) -> str:
    """Return where the outputs are published."""
    return f"artifacts/search/{key}"


def check(params: Params) -> list[str]:
    """Return what is wrong across sections: each key must be a model that can do what is asked of it."""
    configs = {f"search.{key}": params.config("search", key) for key in params.keys("search")}
    problems = missing_flows(params, [(f"search.{key}", key) for key in params.keys("search")])
    problems += unguidable(params, [(f"{where}.guidance", c.guidance) for where, c in configs.items()])
    for where, config in configs.items():
        try:
            config.method.build().check(config.budgets, config.solver)
        except UserError as error:
            problems.append(f"{where}.budgets: {error}")
        if config.method.name == "best" and config.report_noises < FEWEST_TO_REPORT:
            problems.append(
                f"{where}.report_noises {config.report_noises} is too few to tell the best search from luck; "
                f"set {FEWEST_TO_REPORT} or more, or name one search as the method"
            )
    if not configs:
        problems.append("search is empty, but every student needs a grid: add search.pretrain")
    return problems


def run(config: Config, job: Job) -> None:
    """Write grids.json (every budget and search, with scores), the costs of jumps, and pictures."""
    from dataclasses import asdict, replace

    from fewstep.checkpoint import model_digest
    from fewstep.searches import Problem
    from fewstep.searches._checked import Checked
    from fewstep.searches._noise import Drawn
    from fewstep.searches._score import score
    from stages._flows import device, open_flow
    from stages._grids import Found, fine_of, write_grids
    from stages._search_pictures import draw_search
    from stages._spread import spread_out

    model, flow = open_flow(job.inputs["model"], purpose=f"search@{job.key}", guidance=config.guidance)
    noise = Drawn(job.seed, model.config.shape, model.config.classes, config.batch, device())
    problem = Problem(
        Checked(flow),
        noise,
        config.budgets,
        config.solver,
        truth_steps=config.truth_steps,
        progress=job.progress,
    )
    method = config.method.build()
    noises = method.needs() | {"report": config.report_noises}
    with spread_out(problem, job.inputs["model"], config.guidance, most=max(noises.values())) as problem:
        result = method.search(problem)
        named = {
            steps: {name: grids[steps] for name, grids in result.candidates.items()}
            | {config.method.name: result.grids[steps]}
            for steps in config.budgets
        }
        scores = score(problem, named, noises=config.report_noises)
    marks = {"guidance": config.guidance, "model_digest": model_digest(job.inputs["model"])}
    found = Found(
        grids={steps: replace(grid, **marks) for steps, grid in result.grids.items()},
        fine=replace(fine_of(result, problem), guidance=config.guidance),
        method=config.method.named(),
        candidates={steps: {n: grid.times for n, grid in grids.items()} for steps, grids in named.items()},
        scores={steps: {name: asdict(s) for name, s in own.items()} for steps, own in scores.items()},
        objective=result.objective,
        decisions=result.decisions,
        protocol={
            "noises": noises,
            "truth": f"{config.truth_steps} equal heun steps",
            "velocities": method.velocities(problem),
        },
    )
    write_grids(job.out, found, result.jumps)
    draw_search(job.out, found, result.jumps)
    for picture in sorted(job.out.glob("*.png")):
        job.picture(picture.stem, picture)
    job.facts["endpoint_rmse"] = {
        str(steps): {name: own[name].rmse for name in (config.method.name, "uniform")}
        for steps, own in scores.items()
    }


if __name__ == "__main__":
    main(Path(__file__))
