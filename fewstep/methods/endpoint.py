"""Endpoint: distil a flow into one or a few steps along the chord from noise to data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from fewstep.flow import as_flow, over_step
from fewstep.lazy import lazy_imports
from fewstep.methods._features import check_features, feature_distance, loaded_features
from fewstep.paths import like
from fewstep.training.distances import DISTANCES, check_distance
from fewstep.training.method import Batch, Method, Needs, Net, Nets, conditions_of
from fewstep.training.timesteps import draw_timesteps, in_range_of, timesteps_of

if TYPE_CHECKING:
    from torch import Tensor

    from fewstep.model import Model

with lazy_imports():
    import torch


@dataclass(frozen=True, kw_only=True)
class Endpoint(Method):
    """Regress the velocity along a pair's chord to its data, only at the timesteps of the student's grid.

    Source: the distillation of Liu et al. 2022 (arXiv 2209.03003), section 2.2; the Huber distance
    from Lee et al. 2024 (arXiv 2405.20320). With one step the student maps noise to data. With
    more, it is trained at points of the chord, but its own steps leave the chord unless pairs are straight.

    The chord begins where solvers do: at t_start, at (1 - t_start) noise. Where t_start is 0 that is
    the linear path from noise to data.
    """

    trained_times = "grid"

    distance: str = "l2"
    """l2, huber, huber_each or pseudo_huber."""
    feature_weight: float = 0.0
    """Weight of the squared distance in features, between the data that a velocity leads to and that of the
    pair, beside `distance`; Lee et al. 2024 with LPIPS."""
    feature_net: str = "monitor"
    """Whose features; see Reflow.feature_net."""

    def __post_init__(self) -> None:
        check_distance(self.distance)
        check_features(self.feature_weight, self.feature_net)

    @property
    def needs(self) -> Needs:
        """See Method.needs."""
        return replace(super().needs, features=self.feature_net if self.feature_weight else None)

    def networks(self, student: Model, load: Callable[[str], Any]) -> dict[str, Net]:
        """See Method.networks."""
        timesteps_of(student)
        return super().networks(student, load) | (loaded_features(load) if self.feature_weight else {})

    def loss(self, nets: Nets, batch: Batch, network: str, progress: float, keys: Tensor) -> Tensor:
        """See Method.loss."""
        student: Model = nets["student"]
        timesteps = timesteps_of(student)
        step, device = draw_timesteps(len(timesteps) - 1, keys), batch["data"].device
        t, until = (torch.tensor(timesteps)[number].to(device) for number in (step, step + 1))
        t_start, data = timesteps[0], in_range_of(student.config, batch["data"])
        start = (1 - t_start) * batch["noise"]
        done = like((t - t_start) / (1 - t_start), data)  # the part of the chord before x
        x = done * data + (1 - done) * start
        velocity = over_step(as_flow(student), x, t, until, **conditions_of(student.config, batch))
        losses = DISTANCES[self.distance](velocity - (data - start) / (1 - t_start))
        if not self.feature_weight:
            return losses
        end = x + like(1 - t, x) * velocity
        return losses + self.feature_weight * feature_distance(nets["features"], end, data)
