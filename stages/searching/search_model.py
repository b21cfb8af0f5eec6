"""Search a model: on several processes if that pays, with a score of every grid that was found."""

from dataclasses import asdict, replace
from functools import partial
from typing import Any

from fewstep.checkpoint import load_config, model_digest
from fewstep.flow import Flow, as_flow
from fewstep.model import Model
from fewstep.searches import Problem, Search
from fewstep.searching.call import student_of
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
    if problem.student is not None:
        guidance = 1.0  # what it does is in the student
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


def open_searched(
    job: Job, search: Search, guidance: float, precision: Precision
) -> tuple[Model, Flow, Student | None]:
    """Return the model and its flow, and what a search needs to know of a jittered student."""
    folder = job.inputs["model"]
    if not load_config(folder).jitter:
        searched = open_flow(folder, purpose=f"search@{job.key}", guidance=guidance, precision=precision)
        return *searched, None
    model, teacher = (open_sampler(job.inputs[name], precision) for name in ("model", "teacher"))
    student = student_of(model, teacher, search, guidance)
    return model, as_flow(model), student
