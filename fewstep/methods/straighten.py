"""Straighten: train a student so that Euler steps on its own grid reach the teacher's states."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from fewstep.errors import UserError
from fewstep.flow import as_flow, over_step
from fewstep.lazy import lazy_imports
from fewstep.paths import like
from fewstep.training.distances import l2
from fewstep.training.method import Batch, Method, Needs, Net, Nets, conditions_of
from fewstep.training.timesteps import (
    at_timesteps,
    draw_timesteps,
    in_range_of,
    near_timesteps,
    timesteps_of,
)

if TYPE_CHECKING:
    from torch import Tensor

    from fewstep.model import Model

with lazy_imports():
    import torch


@dataclass(frozen=True, kw_only=True)
class Straighten(Method):
    """At each timestep, regress the velocity that leads to the teacher's state at the next timestep.

    Source: the second phase of BOSS, Nguyen et al. 2024 (arXiv 2312.16414). On policy the
    student is trained at the states that its own steps reach, as in Ross et al. 2011 (arXiv 1011.0686),
    instead of at states that do not occur when it samples. Velocities and states are those of the
    canonical flow, so the student may have any path and prediction.
    """

    trained_times = "grid"

    on_policy: bool = True
    """Start each step from the student's own state (one network call per timestep) instead of from the
    teacher's state at one random timestep (one network call in all)."""
    jitter: float = 0.0
    """How far inner timesteps are moved at random, as a fraction of the distance to the next timestep on
    either side. A search can then move the student's timesteps. The trajectories must keep all states."""

    def __post_init__(self) -> None:
        if not 0 <= self.jitter < 0.5:
            raise UserError(f"jitter must be from 0 up to but not 0.5, got {self.jitter}")

    @property
    def needs(self) -> Needs:
        """See Method.needs."""
        options = {"all_states": "jitter"} if self.jitter else {}
        return Needs(stream="trajectories", all_states=self.jitter > 0, options=options)

    def networks(self, student: Model, load: Callable[[str], Model]) -> dict[str, Net]:
        """See Method.networks."""
        timesteps_of(student)
        return super().networks(student, load)

    def trained(self) -> dict[str, Any]:
        """See Method.trained."""
        return super().trained() | {"jitter": self.jitter}

    def loss(self, nets: Nets, batch: Batch, network: str, progress: float, keys: Tensor) -> Tensor:
        """See Method.loss; on policy the mean over all timesteps."""
        student: Model = nets["student"]
        if self.jitter:
            batch = batch | near_timesteps(timesteps_of(student), self.jitter, batch, keys)
        else:
            batch = batch | {"times": at_timesteps(timesteps_of(student), batch["states"])}
        *before, last = batch["states"].unbind(1)
        batch["states"] = torch.stack([*before, in_range_of(student.config, last)], dim=1)
        follow = self._own_steps if self.on_policy else self._teacher_step
        return follow(student, batch, keys)

    def _own_steps(self, student: Model, batch: Batch, keys: Tensor) -> Tensor:
        flow, conditions = as_flow(student), conditions_of(student.config, batch)
        x, losses = batch["states"][:, 0], []
        way = zip(pairwise(batch["times"].unbind(1)), batch["states"].unbind(1)[1:], strict=True)
        for (t, t_next), wanted in way:
            step = like(t_next - t, x)
            velocity = over_step(flow, x, t, t_next, **conditions)
            losses.append(l2(velocity - (wanted - x) / step))
            x = x + step * velocity.detach()
        return torch.stack(losses).mean(dim=0)

    def _teacher_step(self, student: Model, batch: Batch, keys: Tensor) -> Tensor:
        times, states = batch["times"], batch["states"]
        timestep = draw_timesteps(times.shape[1] - 1, keys).to(states.device)
        each = torch.arange(len(states), device=states.device)
        x, wanted = states[each, timestep], states[each, timestep + 1]
        t, step = times[each, timestep], times[each, timestep + 1] - times[each, timestep]
        velocity = over_step(as_flow(student), x, t, t + step, **conditions_of(student.config, batch))
        return l2(velocity - (wanted - x) / like(step, x))
