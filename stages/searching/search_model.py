"""What the search stage does: puts the question, on several processes if that pays, and judges the answer."""

from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from fewstep.checkpoint import model_digest
from fewstep.flow import Flow, as_flow
from fewstep.model import Model
from fewstep.searches import Problem
from fewstep.searching.call import student_of
from fewstep.searching.checked import Checked, probe
from fewstep.searching.ends import baseline
from fewstep.searching.jumps import Jumps
from fewstep.searching.noise import Drawn
from fewstep.searching.problem import Student
from fewstep.searching.score import score
from stages.process.device import device, open_flow, open_model
from stages.run.job import Job
from stages.searching.grids_file import Found, fine_of
from stages.searching.parallel_problem import spread_out

if TYPE_CHECKING:
    from stages.search import Config


def search_model(config: "Config", job: Job) -> tuple[Found, Jumps | None]:
    """Return what the search found, with scores, and the costs of jumps if it looked at them."""
    model, flow, student = open_searched(config, job)
    problem = Problem(
        Checked(flow),
        Drawn(job.seed, model.config.shape, model.config.classes, config.batch, device()),
        config.budgets,
        config.solver,
        truth_steps=config.truth_steps,
        student=student,
        progress=job.progress,
    )
    probe(problem)
    method = config.method.build()
    noises = method.needs() | {"report": config.report_noises}
    with spread_out(problem, job.inputs["model"], config.guidance, most=max(noises.values())) as problem:
        result = method.search(problem)
        named = {
            steps: dict([baseline(problem, steps)])
            | {name: grids[steps] for name, grids in result.candidates.items()}
            | {config.method.name: result.grids[steps]}
            for steps in config.budgets
        }
        scores = score(problem, named, noises=config.report_noises)
    guidance = config.guidance if student is None else 1.0  # what it does is in the student
    marks = {"guidance": guidance, "model_digest": model_digest(job.inputs["model"])}
    found = Found(
        grids={steps: replace(grid, **marks) for steps, grid in result.grids.items()},
        fine=replace(fine_of(result, problem), guidance=guidance),
        method=config.method.named(),
        baseline=baseline(problem, config.budgets[0])[0],
        candidates={steps: {n: grid.times for n, grid in grids.items()} for steps, grids in named.items()},
        scores={steps: {name: asdict(s) for name, s in own.items()} for steps, own in scores.items()},
        objective=result.objective,
        decisions=result.decisions,
        protocol={
            "noises": noises,
            "truth": f"{config.truth_steps} equal heun steps of {config.teacher}",
            "velocities": method.velocities(problem),
        },
    )
    return found, result.jumps


def open_searched(config: "Config", job: Job) -> tuple[Model, Flow, Student | None]:
    """Return the model and its flow, and what a search needs to know of a jittered student."""
    model = open_model(job.inputs["model"])
    if not model.config.jitter:
        return *open_flow(job.inputs["model"], purpose=f"search@{job.key}", guidance=config.guidance), None
    student = student_of(model, open_model(job.inputs["teacher"]), config.method.build(), config.guidance)
    return model, as_flow(model), student
