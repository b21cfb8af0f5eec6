"""search: a few-step grid for any velocity, without a pipeline."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

from torch import Tensor

from fewstep import registry, solvers
from fewstep.conditions import must_be_given
from fewstep.errors import UserError
from fewstep.flow import FieldFlow, Flow, as_flow, must_know_all_times, velocity_until
from fewstep.grids import Grid
from fewstep.model import Model
from fewstep.progress import SILENT, Progress
from fewstep.searches import Search, SearchResult, keeping_to_timesteps
from fewstep.searching.checked import Checked, probe
from fewstep.searching.noise import Given
from fewstep.searching.problem import Problem, Student
from fewstep.searching.score import Score, score


@dataclass(frozen=True)
class SearchReport(Mapping[int, Grid]):
    """The grids by budget, as a mapping, with the search's result and the scores."""

    result: SearchResult
    scores: dict[int, dict[str, Score]]
    """By budget and name of a search, if a report was asked for; "uniform" is there to compare
    with, or of a student "own", its own grid."""

    def __getitem__(self, budget: int) -> Grid:
        return self.result.grids[budget]

    def __iter__(self) -> Iterator[int]:
        return iter(self.result.grids)

    def __len__(self) -> int:
        return len(self.result.grids)


def search(
    model: Model | Flow | Callable[[Tensor, Tensor], Tensor],
    noise: Tensor,
    *,
    budgets: Sequence[int],
    method: str | Search = "best",
    solver: str = "euler",
    guidance: float = 1.0,
    conditions: Mapping[str, Tensor] | None = None,
    distance: Callable[[Tensor, Tensor], Tensor] | None = None,
    teacher: Model | None = None,
    report: int = 0,
    truth_steps: int = 64,
    batch: int = 128,
    progress: Progress = SILENT,
) -> SearchReport:
    """Find, for each number of steps, the times at which to call a model.

    Args:
        model: A fewstep Model, a Flow, or any callable velocity(x, t): x (n, *shape) is (1 - t) noise +
            t data, t is (n,), from 0 (noise) to 1 (data), and the velocity points from noise to data.
        noise: Of the law of the model, normal if it says none, (N, *shape), on its device. It is dealt to
            disjoint sets; if it doesn't suffice, the message says how much does.
        budgets: Numbers of steps to find a grid for.
        method: The name of a search (a file of fewstep.searches), or one with options of yours.
        solver: The solver that will take the steps.
        guidance: The scale of classifier-free guidance that a Model will be sampled with, or that a student
            learnt from its teacher; 1 is none.
        conditions: What the velocity is conditioned on, each (N, ...); passed on by name.
        distance: How far apart states (n, *shape) are, (n,), for searches over single jumps; such as a
            perceptual distance. None is the L2 norm, which is much faster.
        teacher: Of a student whose timesteps were jittered in training: it is searched for where its teacher
            ends, by a search that keeps to the student's timesteps. Of a flow map, whose own steps are
            searched: it is compared with its teacher's fine run; without a teacher, with that of its own
            velocities at one time.
        report: Further noises to score the grids on, 4096 or more for numbers that last; 0 for none.
        truth_steps: Equal Heun steps of the fine run that an end is compared with.
        batch: Noises in one call.
        progress: Told of what is done.

    Returns:
        A mapping from each budget to its Grid, with `scores` if a report was asked for.

    Raises:
        UserError: for a name, budget or option that can't be, too little noise or noise of another shape,
            conditions that are missing, a model that is not deterministic or trained at its own timesteps
            alone (with jitter: without its teacher), a teacher of another model, a flow map for another
            solver than Euler, guidance for a velocity that has none, a velocity that is none, or a distance
            that gives no (n,) numbers.
        NotFiniteError: if a state is not finite.
    """
    searcher = registry.find("fewstep.searches", method)() if isinstance(method, str) else method
    solvers.get(solver)
    searcher.check(budgets, solver)
    if report and report < 2:
        raise UserError(f"report scores grids on two or more noises, or on none with 0; got {report}")
    if batch < 1:
        raise UserError(f"batch must be 1 or more, got {batch}")
    student = taught = None
    if isinstance(model, Model):
        student, taught = student_of(model, searcher), teaching(model, teacher, guidance)
        guidance = own_guidance(model, taught, guidance)
    flow = Checked(_flow_of(model, guidance))
    if teacher is not None and not (isinstance(model, Model) and has_teacher(model)):
        raise UserError(
            "a teacher is for the search of a flow map or of a student with jittered timesteps, and this "
            "model is neither; leave it out"
        )
    if isinstance(model, Model):
        _check_for(model, noise, conditions or {})
    given = Given(noise, conditions or {}, searcher.needs() | {"report": report}, batch)
    problem = Problem(flow, given, tuple(budgets), solver, distance, truth_steps, student, taught, progress)
    probe(problem)
    result = searcher.search(problem)
    name = method if isinstance(method, str) else type(method).__name__
    scores = {}
    if report:
        asked = {steps: {**_named(result, steps), name: grid} for steps, grid in result.grids.items()}
        scores = score(problem, asked, noises=report)
    guided = {by: _guided(grids, guidance) for by, grids in result.candidates.items()}
    return SearchReport(replace(result, grids=_guided(result.grids, guidance), candidates=guided), scores)


def _guided(grids: Mapping[int, Grid], guidance: float) -> dict[int, Grid]:
    return {steps: replace(grid, guidance=guidance) for steps, grid in grids.items()}


def _check_for(model: Model, noise: Tensor, conditions: Mapping[str, Tensor]) -> None:
    """Refuse noise and conditions that a model can't take."""
    if tuple(noise.shape[1:]) != model.config.shape:
        raise UserError(
            f"noise of shape {tuple(noise.shape[1:])} is not of the model's, {model.config.shape}"
        )
    if model.config.classes and "label" not in conditions:
        raise UserError(
            f"the model has {model.config.classes} classes; give each noise's: conditions={{'label': ...}}"
        )
    must_be_given(model.config.conditions, conditions, by="search(conditions=...)")


def has_teacher(model: Model) -> bool:
    """Return whether a model may be compared with a teacher: a flow map, or a student with jitter."""
    return bool(model.config.jitter) or model.config.velocity_until == "any"


def own_guidance(model: Model, taught: Flow | None, guidance: float) -> float:
    """Return the scale that a model itself is called with, where `guidance` is asked of its flow or teacher.

    What it does to a teacher is in the student, unless that takes the scale as an input.
    """
    return guidance if taught is None or model.config.guidance_range else 1.0


def teaching(model: Model, teacher: Model | None, guidance: float) -> Flow | None:
    """Return the flow of a teacher that a student or a flow map is compared with; None of another model.

    A flow map without teacher is compared with its own velocities at one time.

    Args:
        model: Any model.
        teacher: Its teacher, if there is one.
        guidance: The scale that the teacher is called with.

    Raises:
        UserError: if a student of its own timesteps has no teacher, or the teacher is no flow.
    """
    if model.config.jitter and teacher is None:
        raise UserError("a student's ends are compared with its teacher's; give the teacher too")
    if teacher is None or not has_teacher(model):
        return None
    flow = as_flow(teacher, guidance=guidance)
    must_know_all_times(flow, by="what a student is compared with")
    return flow


def student_of(model: Model, searcher: Search) -> Student | None:
    """Return where a search may call a student with jittered timesteps; None for a model of all times.

    Raises:
        UserError: if the search asks for velocities far from the timesteps.
    """
    if not model.config.jitter:
        return None
    if searcher.all_times:
        raise UserError(
            "this student knows velocities near its own timesteps alone; use a search that keeps to them: "
            f"{', '.join(keeping_to_timesteps())}"
        )
    assert model.config.grid is not None, "a jittered student has a grid"
    return Student(model.config.grid, model.config.jitter)


def _named(result: SearchResult, steps: int) -> dict[str, Grid]:
    return {name: grids[steps] for name, grids in result.candidates.items()}


def _flow_of(model: Model | Flow | Callable[[Tensor, Tensor], Tensor], guidance: float) -> Flow:
    if isinstance(model, Model):
        if model.config.trained_times != "all" and not model.config.jitter:
            raise UserError(
                "this model was trained only at the timesteps of its own grid; search its teacher"
            )
        if not model.config.deterministic:
            raise UserError("this model is not deterministic: the same noise gives other samples each time")
        return as_flow(model, guidance=guidance)
    if guidance != 1.0:
        raise UserError(f"guidance {guidance} is asked of a velocity that has none; guide it before")
    flow = cast("Flow", model) if hasattr(model, "t_start") else FieldFlow(model)
    if velocity_until(flow) != "any":
        must_know_all_times(flow, by="a search")
    return flow
