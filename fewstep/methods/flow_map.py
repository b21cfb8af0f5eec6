"""Flow map: regress the average velocity between any two states of the teacher's trajectories."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fewstep import randomness
from fewstep.errors import UserError
from fewstep.flow import as_flow
from fewstep.lazy import lazy_imports
from fewstep.methods._between import state_at
from fewstep.methods._spans import check_share, must_take_until
from fewstep.paths import like
from fewstep.training.distances import l2
from fewstep.training.method import Batch, Method, Needs, Net, Nets, conditions_of
from fewstep.training.timesteps import in_range_of

if TYPE_CHECKING:
    from torch import Tensor

    from fewstep.model import Model

with lazy_imports():
    import torch

SHORTEST = (
    1e-3  # of the steps between stored states, as a share of the whole way; their velocity is a quotient
)


@dataclass(frozen=True, kw_only=True)
class FlowMap(Method):
    """One student for any number of steps: the target of a step is where a stored trajectory leads.

    The average velocity u(x, t, until) over a step defines the flow map x + (until - t) u; Boffi et al. 2024
    (arXiv 2406.07507). Here it is regressed to (x_until - x_t) / (until - t) of a trajectory that an accurate
    solver made, the target of Kim et al. 2023 (arXiv 2310.02279) without its bootstrap: each row needs one
    call of the student and none of the teacher.
    """

    to_data: float = 0.5
    """Share of the rows whose step ends at the data, which a single step needs most."""
    from_noise: float = 0.125
    """Share of the rows whose step starts at the noise."""
    between: bool = True
    """Whether steps also start and end between the stored states, on cubics through these. false: at stored
    states alone, for trajectories of few steps; the student is then good at their times only."""

    def __post_init__(self) -> None:
        check_share("to_data", self.to_data)
        check_share("from_noise", self.from_noise)

    @property
    def needs(self) -> Needs:
        """See Method.needs."""
        return Needs(stream="trajectories", all_states=True, second_time=True)

    def networks(self, student: Model, load: Callable[[str], Model]) -> dict[str, Net]:
        """See Method.networks."""
        must_take_until(student)
        return super().networks(student, load)

    def loss(self, nets: Nets, batch: Batch, network: str, progress: float, keys: Tensor) -> Tensor:
        """See Method.loss."""
        student: Model = nets["student"]
        if "times" not in batch:
            raise UserError(
                "this method learns from all states of trajectories and their times, and the batch has no "
                "times; keep all states"
            )
        states, times, flow = batch["states"], batch["times"], as_flow(student)
        t, until = self.steps(times, keys)
        t = t.clamp(max=flow.t_end)
        x, reached = state_at(states, times, t), state_at(states, times, until)
        at_data = like(until == times[:, -1], reached)
        reached = torch.where(at_data, in_range_of(student.config, reached), reached)
        velocity = flow(x, t, until=until, **conditions_of(student.config, batch))
        return l2(velocity - (reached - x) / like(until - t, x))

    def steps(self, times: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
        """Return the times (n,) that each row's step leads from and to, within the stored times (n, stored).

        Any two times, or stored times, are equally likely, but for the shares of rows with an end fixed.
        """
        one, other, at_noise, at_data = (
            randomness.uniforms(f"train.span.{name}", keys).to(times)
            for name in ("one", "other", "noise", "data")
        )
        begin, end = times[:, 0], times[:, -1]
        if self.between:
            least = SHORTEST * (end - begin)
            t = begin + (end - begin - least) * torch.minimum(one, other)
            until = begin + (end - begin - least) * torch.maximum(one, other) + least
        else:
            stored = times.shape[1]
            first, second = (one * stored).long(), (other * (stored - 1)).long()
            second += second >= first
            ends = torch.stack([torch.minimum(first, second), torch.maximum(first, second)], dim=1)
            t, until = times.gather(1, ends).unbind(1)
        t = torch.where(at_noise < self.from_noise, begin, t)
        return t, torch.where(at_data < self.to_data, end, until)
