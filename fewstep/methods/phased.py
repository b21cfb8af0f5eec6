"""Phased: train a student to go straight within each phase of a trajectory, from any of its times."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from fewstep import randomness
from fewstep.errors import UserError
from fewstep.flow import as_flow, ends_in_range, over_step
from fewstep.lazy import lazy_imports
from fewstep.methods import _spans
from fewstep.paths import like
from fewstep.registry import unknown
from fewstep.training.distances import DISTANCES, check_distance
from fewstep.training.method import Batch, Method, Needs, Net, Nets, conditions_of
from fewstep.training.timesteps import TOLERANCE, at_timesteps, draw_timesteps, in_range_of, timesteps_of

if TYPE_CHECKING:
    from torch import Tensor

    from fewstep.model import Model

with lazy_imports():
    import torch

COMPARED = ("end", "velocity")
SOURCES = ("trajectories", "data")


@dataclass(frozen=True)
class Chords:
    """The lines that a batch learns from, each from a state of the teacher to a later one."""

    first: Tensor  # (n,), canonical times
    last: Tensor  # (n,)
    start: Tensor  # (n, *shape)
    end: Tensor  # (n, *shape)


@dataclass(frozen=True, kw_only=True)
class Phased(Method):
    """Regress where a phase ends, in one step from any point of its chord, or the chord's slope.

    Source: the phased variant of Wang et al. 2024 (arXiv 2410.07303). The phases lie between timesteps of the
    student's grid, and a phase's chord between the teacher's states at its ends: on any path, that is the
    line of constant noise direction of the paper. Stored trajectories start from noise, as in inference. The
    paper, and PeRFlow (Yan et al. 2024, arXiv 2405.07510), start each phase from noised real data: a state of
    the same law, where the teacher has learnt that of the data.
    """

    trained_times = "grid"

    steps_per_phase: int = 1
    """Steps that the student takes in a phase; its steps must be a multiple."""
    distance: str = "huber_each"
    """l2, huber, huber_each or pseudo_huber, of what is compared."""
    compare: str = "end"
    """end: where one step leads, and where the phase ends, as in the paper. velocity: the slope of that step
    and of the chord, as in PeRFlow; with one phase it is the loss of `reflow`."""
    learn_from: Literal["trajectories", "data"] = "trajectories"
    """trajectories that are stored; or data, noised to where a phase starts, from where the teacher leads to
    its end within the update."""
    teacher_steps: int = 10
    """For data: the teacher's Euler steps in a phase, of equal length in canonical time; 10 in the paper's
    code."""
    guidance: float = 1.0
    """For data: classifier-free guidance of the teacher's steps. Stored trajectories have that of their
    search. The student then needs none."""

    def __post_init__(self) -> None:
        check_distance(self.distance)
        if self.compare not in COMPARED:
            raise UserError(unknown("compare", self.compare, list(COMPARED)))
        if self.learn_from not in SOURCES:
            raise UserError(unknown("source", self.learn_from, list(SOURCES)))
        for name in ("steps_per_phase", "teacher_steps"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be 1 or more, got {getattr(self, name)}")
        if self.teacher_steps != Phased.teacher_steps and not self.asks_teacher:
            raise UserError(
                f"teacher_steps {self.teacher_steps} are of a teacher that is asked in training, and "
                "trajectories are stored; leave it out, or set learn_from to data"
            )
        if self.guidance != 1 and not self.asks_teacher:
            raise UserError(
                f"guidance {self.guidance} is of a teacher that is asked in training, and trajectories have "
                "that of their search; set guidance to 1, or learn_from to data"
            )

    @property
    def asks_teacher(self) -> bool:
        """Whether the teacher solves the phases during the training."""
        return self.learn_from == "data"

    @property
    def needs(self) -> Needs:
        """See Method.needs."""
        options = {"stream": "learn_from data"} if self.asks_teacher else {}
        return Needs(stream=self.learn_from, teacher=self.asks_teacher, options=options)

    def check_steps(self, steps: int) -> None:
        """See Method.check_steps."""
        if steps % self.steps_per_phase:
            raise UserError(
                f"{steps} steps make no whole phases of {self.steps_per_phase} steps; change "
                "steps_per_phase or the student's steps"
            )

    def check_flow_map(self) -> None:
        """See Method.check_flow_map."""
        if self.steps_per_phase > 1:
            raise UserError(
                f"with steps_per_phase {self.steps_per_phase} it trains the average velocity until a phase "
                "ends, but the student's steps are shorter; set steps_per_phase to 1, or start from its "
                "teacher"
            )

    def networks(self, student: Model, load: Callable[[str], Model]) -> dict[str, Net]:
        """See Method.networks."""
        self.check_steps(len(timesteps_of(student)) - 1)
        nets = super().networks(student, load)
        if self.asks_teacher:
            teacher = load("teacher")
            _spans.must_teach(student, teacher)
            as_flow(teacher, guidance=self.guidance)  # refuses guidance that it can't show
            nets["teacher"] = Net(teacher, trains=False)
        return nets

    def trained(self) -> dict[str, Any]:
        """See Method.trained."""
        return super().trained() | ({"baked_guidance": self.guidance} if self.asks_teacher else {})

    def loss(self, nets: Nets, batch: Batch, network: str, progress: float, keys: Tensor) -> Tensor:
        """See Method.loss."""
        student: Model = nets["student"]
        conditions = conditions_of(student.config, batch)
        if self.asks_teacher:
            chord = self.solved(nets, batch["data"], conditions, keys)
        else:
            chord = self.stored(student, batch["states"], keys)
        start, end = chord.start, chord.end
        if student.config.in_range:
            end = torch.where(like(chord.last == 1, end), in_range_of(student.config, end), end)
        canonical, length = as_flow(student), chord.last - chord.first
        part = randomness.uniforms("train.phase.time", keys).to(start)
        part = torch.minimum(part, (canonical.t_end - chord.first) / length)
        t, x = chord.first + part * length, start + like(part, start) * (end - start)
        canonical.clamped_from = None  # that of sampling, where t is one of the timesteps
        velocity = over_step(canonical, x, t, chord.last, **conditions)
        if student.config.in_range:
            last_step = t > timesteps_of(student)[-2] - TOLERANCE
            velocity = ends_in_range(velocity, x, t, last_step)
        distance = DISTANCES[self.distance]
        if self.compare == "velocity":
            return distance(velocity - (end - start) / like(length, x))
        return distance(x + like(chord.last - t, x) * velocity - end)

    def stored(self, student: Model, states: Tensor, keys: Tensor) -> Chords:
        """Return a random phase of each trajectory, whose states (n, steps + 1, *shape) are stored."""
        times = at_timesteps(timesteps_of(student), states)[:, :: self.steps_per_phase]
        states = states[:, :: self.steps_per_phase]
        phase = draw_timesteps(times.shape[1] - 1, keys).to(states.device)
        each = torch.arange(len(states), device=states.device)
        starts, ends = (each, phase), (each, phase + 1)
        return Chords(times[starts], times[ends], states[starts], states[ends])

    def solved(self, nets: Nets, data: Tensor, conditions: Batch, keys: Tensor) -> Chords:
        """Return a random phase for each sample of data (n, *shape), as the teacher solves it."""
        student: Model = nets["student"]
        edges = timesteps_of(student)[:: self.steps_per_phase]
        times = torch.tensor(edges, dtype=data.dtype, device=data.device)
        phase = draw_timesteps(len(times) - 1, keys).to(data.device)
        first, last = times[phase], times[phase + 1]
        start = _spans.on_chord(_spans.fresh_noise(student.noise, data, keys), data, first)
        teacher, end = as_flow(nets["teacher"], guidance=self.guidance), start
        step = (last - first) / self.teacher_steps
        with torch.no_grad():
            for number in range(self.teacher_steps):
                t = (first + number * step).clamp(teacher.t_start, teacher.t_end)
                end = end + like(step, end) * teacher(end, t, **conditions)
        return Chords(first, last, start, end)
