"""Phased: train a student to go straight within each phase of a trajectory, from any of its times."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from etils.epy import lazy_imports

from fewstep import randomness
from fewstep.errors import UserError
from fewstep.flow import as_flow
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

    from fewstep import flow


COMPARED = ("end", "velocity")


@dataclass(frozen=True, kw_only=True)
class Phased(Method):
    """Regress where a phase ends, in one step from any point of its chord, or the chord's slope.

    Source: the phased variant of Wang et al. 2024 (arXiv 2410.07303). The phases lie between timesteps of the
    student's grid, and a phase's chord between the teacher's states at its ends: on any path, that is the
    line of constant noise direction of the paper. Trajectories start from noise, as in inference; the paper
    starts each phase from noised real data.
    """

    trained_times = "grid"

    steps_per_phase: int = 1
    """Steps that the student takes in a phase; its steps must be a multiple."""
    distance: str = "huber_each"
    """l2, huber, huber_each or pseudo_huber, of what is compared."""
    compare: str = "end"
    """end: where one step leads, and where the phase ends, as in the paper. velocity: the slope of that step
    and of the chord, as in PeRFlow, Yan et al. 2024 (arXiv 2405.07510); with one phase it is the loss of
    `reflow`."""

    def __post_init__(self) -> None:
        check_distance(self.distance)
        if self.compare not in COMPARED:
            raise UserError(unknown("compare", self.compare, list(COMPARED)))
        if self.steps_per_phase < 1:
            raise UserError(f"steps_per_phase must be 1 or more, got {self.steps_per_phase}")

    @property
    def needs(self) -> Needs:
        """See Method.needs."""
        return Needs(stream="trajectories")

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
        return super().networks(student, load)

    def loss(self, nets: Nets, batch: Batch, network: str, progress: float, keys: Tensor) -> Tensor:
        """See Method.loss."""
        student: Model = nets["student"]
        timesteps = at_timesteps(timesteps_of(student), batch["states"])
        times = timesteps[:, :: self.steps_per_phase]
        states = batch["states"][:, :: self.steps_per_phase]
        phase = draw_timesteps(times.shape[1] - 1, keys).to(states.device)
        each = torch.arange(len(states), device=states.device)
        first, last = times[each, phase], times[each, phase + 1]
        start, end = states[each, phase], states[each, phase + 1]
        if student.config.in_range:
            end = torch.where(like(last == 1, end), in_range_of(student.config, end), end)
        part = randomness.uniforms("train.phase.time", keys).to(start)
        t, x = first + part * (last - first), start + like(part, start) * (end - start)
        canonical = as_flow(student)
        canonical.clamped_from = None  # that of sampling, where t is one of the timesteps
        velocity = flow.over_step(canonical, x, t, last, **conditions_of(student.config, batch))
        if student.config.in_range:
            velocity = flow.ends_in_range(velocity, x, t, t > float(timesteps[0, -2]) - TOLERANCE)
        distance = DISTANCES[self.distance]
        if self.compare == "velocity":
            return distance(velocity - (end - start) / like(last - first, x))
        return distance(x + like(last - t, x) * velocity - end)
