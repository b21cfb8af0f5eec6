"""Search a model: on several processes if that pays, with a score of every grid that was found."""

from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from fewstep.checkpoint import load_config, model_digest
from fewstep.flow import Flow
from fewstep.model import Model
from fewstep.searches import Problem, Search
from fewstep.searching.call import own_guidance, student_of, teaching
from fewstep.searching.ends import baseline
from fewstep.searching.jumps import Jumps
from fewstep.searching.problem import Student
from fewstep.searching.score import score
from stages.run.job import Job
from stages.sampling.open_model import open_flow, open_sampler
from stages.searching.grids_file import SearchedGrids, fine_of
from stages.searching.parallel_problem import spread_out
from stages.settings.fields import Named, Precision


def search_model(
    job: Job,
    problem: Problem,
    method: Named,
    *,
    teacher: str,
    guidance: float,
    precision: Precision,
    report_noises: int,
) -> tuple[SearchedGrids, Jumps | None]:
    """Return what the search found, with scores, and the costs of jumps if it looked at them.

    Args:
        job: Of the search stage; its input "model" is searched.
        problem: The question.
        method: The search and its options.
        teacher: The name of the model whose fine run is the truth.
        guidance: The scale that the model is sampled with.
        precision: The type in which its network computes.
        report_noises: Noises that grids are scored on.
    """
    search: Search = method.options
    noises = search.needs() | {"report": report_noises}
    opened = partial(open_sampler, job.inputs["model"], precision)
    with spread_out(problem, opened, guidance, most=max(noises.values())) as problem:
        result = search.search(problem)
        named = {
            steps: dict([baseline(problem, steps)])
            | {name: grids[steps] for name, grids in result.candidates.items()}
            | {method.name: result.grids[steps]}
            for steps in problem.budgets
        }
        scores = score(problem, named, noises=report_noises)
    marks: dict[str, Any] = {"guidance": guidance, "model_digest": model_digest(job.inputs["model"])}
    found = SearchedGrids(
        grids={steps: replace(grid, **marks) for steps, grid in result.grids.items()},
        fine=replace(fine_of(result, problem), guidance=guidance),
        method=method.named(),
        baseline=baseline(problem, problem.budgets[0])[0],
        candidates={steps: {n: grid.times for n, grid in grids.items()} for steps, grids in named.items()},
        scores={steps: {name: asdict(s) for name, s in own.items()} for steps, own in scores.items()},
        objective=result.objective,
        decisions=result.decisions,
        protocol={
            "noises": noises,
            "truth": f"{problem.truth_steps} equal heun steps of {teacher}",
            "velocities": search.velocities(problem),
        },
    )
    return found, result.jumps


@dataclass(frozen=True)
class Searched:
    """A model to search, and what is known of it."""

    model: Model
    guidance: float
    """The scale that it is sampled with."""
    student: Student | None = None
    """Where it may be called, if it is a student with jittered timesteps."""
    teacher: Flow | None = None
    """What it is compared with, if that is another model."""


def open_searched(job: Job, search: Search, guidance: float, precision: Precision) -> Searched:
    """Return the model of the input "model", and what a search needs to know of it.

    Raises:
        UserError: if it can't be searched, by this search or by any.
    """
    folder = job.inputs["model"]
    config = load_config(folder)
    of_map = config.velocity_until == "any" and config.trained_times == "all"
    if not config.jitter and not of_map:
        model, _ = open_flow(folder, purpose=f"search@{job.key}", guidance=guidance, precision=precision)
        return Searched(model, guidance)
    model, other = open_sampler(folder, precision), job.inputs["teacher"]
    teacher = None if other == folder else open_sampler(other, precision)
    taught = teaching(model, teacher, guidance)
    return Searched(model, own_guidance(model, taught, guidance), student_of(model, search), taught)
