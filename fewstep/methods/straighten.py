"""Straighten: tune a student so that Euler steps on its own grid land where the teacher does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from fewstep.errors import UserError
from fewstep.methods._distances import l2
from fewstep.methods._knots import draw_knots, knots_of
from fewstep.methods._method import Batch, Method, Net, Nets, conditions_of

if TYPE_CHECKING:
    from torch import Tensor

    from fewstep.model import Model


@dataclass(frozen=True, kw_only=True)
class Straighten(Method):
    """At each knot, regress the velocity that leads to the teacher's state at the next knot.

    Source: the second phase of BOSS, Nguyen et al. 2024 (arXiv 2312.16414). On its policy the
    student is corrected where its own steps lead it, as in Ross et al. 2011 (arXiv 1011.0686),
    instead of at states that it never sees when it samples. Velocities and states are those of the
    canonical flow, so the student may have any path and prediction.
    """

    stream = "knots"
    trained_times = "grid"

    on_policy: bool = True
    """Start each step from the student's own state, one call a knot, instead of from the teacher's
    state at one random knot, one call in all."""

    def networks(self, student: Model, load: Callable[[str], Model]) -> dict[str, Net]:
        """See Method.networks."""
        knots_of(student)
        return super().networks(student, load)

    def loss(self, nets: Nets, batch: Batch, turn: str, progress: float, keys: Tensor) -> Tensor:
        """See Method.loss; on policy the mean over all knots."""
        student: Model = nets["student"]
        times, states = knots_of(student), batch["states"]
        if states.shape[1] != len(times):
            raise UserError(
                f"the batch has states at {states.shape[1]} knots, the student's grid has {len(times)}"
            )
        follow = self._own_steps if self.on_policy else self._teacher_step
        return follow(student, times, batch, keys)

    def _own_steps(self, student: Model, times: tuple[float, ...], batch: Batch, keys: Tensor) -> Tensor:
        import torch

        from fewstep.flow import as_flow

        flow, conditions = as_flow(student), conditions_of(student.config, batch)
        x, losses = batch["states"][:, 0], []
        for (t, t_next), wanted in zip(pairwise(times), batch["states"].unbind(1)[1:], strict=True):
            velocity = flow(x, t, **conditions)
            losses.append(l2(velocity - (wanted - x) / (t_next - t)))
            x = x + (t_next - t) * velocity.detach()
        return torch.stack(losses).mean(dim=0)

    def _teacher_step(self, student: Model, times: tuple[float, ...], batch: Batch, keys: Tensor) -> Tensor:
        import torch

        from fewstep.flow import as_flow
        from fewstep.paths import like

        states = batch["states"]
        knot = draw_knots(len(times) - 1, keys).to(states.device)
        each = torch.arange(len(states), device=states.device)
        x, wanted = states[each, knot], states[each, knot + 1]
        grid = torch.tensor(times, device=states.device)
        t, step = grid[knot], (grid[1:] - grid[:-1])[knot]
        velocity = as_flow(student)(x, t, **conditions_of(student.config, batch))
        return l2(velocity - (wanted - x) / like(step, x))
