"""Flow-guided distillation: a one-step student learns from pairs, and from two steps of a straight flow."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fewstep import randomness
from fewstep.errors import UserError
from fewstep.flow import as_flow, over_step
from fewstep.lazy import lazy_imports
from fewstep.methods._features import check_features, feature_distance, loaded_features
from fewstep.methods._spans import fresh_noise, must_teach
from fewstep.paths import like
from fewstep.training.distances import DISTANCES, check_distance
from fewstep.training.method import Batch, Method, Needs, Net, Nets, conditions_of
from fewstep.training.timesteps import in_range_of, timesteps_of

if TYPE_CHECKING:
    from torch import Tensor

    from fewstep.model import Model

with lazy_imports():
    import torch


@dataclass(frozen=True, kw_only=True)
class FlowGuided(Method):
    """Regress the data of pairs, and of fresh noise where the teacher's second of two steps ends.

    Source: SlimFlow, Zhu et al. 2024 (arXiv 2407.12718), in the form of its code: the first of the two steps
    is the student's own, taken as it is. The teacher should be straight, a model of reflow. Fresh noise has
    no end, so few pairs go further; pairs keep the student from agreeing with itself alone.
    """

    trained_times = "grid"

    distance: str = "l2"
    """l2, huber, huber_each or pseudo_huber."""
    feature_weight: float = 0.0
    """Weight of the squared distance in features beside `distance`, of pairs and of fresh noise; Zhu et al.
    2024 with LPIPS."""
    feature_net: str = "monitor"
    """Whose features; see Reflow.feature_net."""
    weight: float = 1.0
    """Weight of the two steps against the pairs."""
    times: tuple[float, float] = (0.2, 0.8)
    """Where the student's step hands over to the teacher's: the share of the way to the data, uniform in this
    range."""
    guidance: float = 1.0
    """Classifier-free guidance of the teacher's step; pairs have it already, and the student needs none."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "times", tuple(self.times))
        check_distance(self.distance)
        check_features(self.feature_weight, self.feature_net)
        if len(self.times) != 2 or not 0 <= self.times[0] <= self.times[1] < 1:
            raise UserError(f"times must be two numbers from 0 up to but not 1, in order, got {self.times}")
        if not 0 <= self.weight < math.inf:
            raise UserError(f"weight must be a number from 0, got {self.weight}")

    @property
    def needs(self) -> Needs:
        """See Method.needs."""
        features = self.feature_net if self.feature_weight else None
        return Needs(stream="pairs", teacher=True, features=features)

    def check_steps(self, steps: int) -> None:
        """See Method.check_steps."""
        if steps != 1:
            raise UserError(f"it trains a student of one step, not of {steps}; set nfe to 1")

    def networks(self, student: Model, load: Callable[[str], Any]) -> dict[str, Net]:
        """See Method.networks."""
        self.check_steps(len(timesteps_of(student)) - 1)
        teacher = load("teacher")
        must_teach(student, teacher)
        as_flow(teacher, guidance=self.guidance)  # refuses guidance that it can't show
        features = loaded_features(load) if self.feature_weight else {}
        return super().networks(student, load) | {"teacher": Net(teacher, trains=False)} | features

    def trained(self) -> dict[str, Any]:
        """See Method.trained."""
        return super().trained() | {"baked_guidance": self.guidance}

    def loss(self, nets: Nets, batch: Batch, network: str, progress: float, keys: Tensor) -> Tensor:
        """See Method.loss."""
        student: Model = nets["student"]
        t_start, _ = timesteps_of(student)
        conditions = conditions_of(student.config, batch)
        noise, data = batch["noise"], in_range_of(student.config, batch["data"])
        fresh = fresh_noise(student.noise, data, keys)
        starts = (1 - t_start) * torch.cat([noise, fresh])
        twice = {name: torch.cat([values, values]) for name, values in conditions.items()}
        ends = starts + (1 - t_start) * over_step(as_flow(student), starts, t_start, 1.0, **twice)
        end, fresh_end = ends.chunk(2)
        with torch.no_grad():
            begun = starts.chunk(2)[1]
            wanted = self._second_step(nets["teacher"], begun, fresh_end, t_start, conditions, keys)
            wanted = in_range_of(student.config, wanted)
        return self._distance(end, data, nets) + self.weight * self._distance(fresh_end, wanted, nets)

    def _distance(self, made: Tensor, wanted: Tensor, nets: Nets) -> Tensor:
        found = DISTANCES[self.distance](made - wanted)
        if not self.feature_weight:
            return found
        return found + self.feature_weight * feature_distance(nets["features"], made, wanted)

    def _second_step(
        self, teacher: Model, start: Tensor, end: Tensor, t_start: float, conditions: Batch, keys: Tensor
    ) -> Tensor:
        first, last = self.times
        part = first + (last - first) * randomness.uniforms("train.time", keys).to(start)
        middle, t = start + like(part, start) * (end - start), t_start + part * (1 - t_start)
        velocity = as_flow(teacher, guidance=self.guidance)(middle, t, **conditions)
        return middle + like(1 - t, start) * velocity
