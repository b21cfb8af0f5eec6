"""DMD: fine-tune a student by distribution matching distillation on its own samples."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from fewstep.errors import UserError
from fewstep.flow import as_flow, over_step
from fewstep.lazy import lazy_imports
from fewstep.methods._distribution_matching import DistributionMatching
from fewstep.paths import like
from fewstep.registry import unknown
from fewstep.solvers import CountedFlow, trajectory
from fewstep.training.method import Batch
from fewstep.training.timesteps import draw_timesteps, timesteps_of

if TYPE_CHECKING:
    from torch import Tensor

    from fewstep.model import Model

with lazy_imports():
    import torch

THROUGH = ("all", "last")


@dataclass(frozen=True, kw_only=True)
class Dmd(DistributionMatching):
    """Follow the gradient of the divergence between the student's noised samples and the teacher's.

    Source: distribution matching distillation, Yin et al. 2023 (arXiv 2311.18828). As in Yin et al. 2024
    (arXiv 2405.14867) there is no regression by default, and the fake network may be updated several times a
    step.
    """

    through: str = "all"
    """all: gradients go through all steps of a sample. last: through one call, as in Yin et al. 2024; the
    sample is then where the velocity at a random timestep, reached without gradients, leads at once. Through
    three jumps of a flow map, they go in `anyflow`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.through not in THROUGH:
            raise UserError(unknown("through", self.through, list(THROUGH)))
        if self.through == "last" and self.regression_weight:
            raise UserError(
                "regression_weight compares complete samples with pairs, and `through: last` makes none; set "
                "through to all, or regression_weight to 0"
            )

    def own_samples(self, student: Model, noise: Tensor, conditions: Batch, keys: Tensor) -> Tensor:
        """See OnPolicyDistillation.own_samples."""
        if self.through == "all":
            return super().own_samples(student, noise, conditions, keys)
        assert student.config.grid is not None
        flow = CountedFlow(as_flow(student), conditions)
        steps = student.config.grid.steps
        with torch.no_grad():  # without its end, from which no jump starts
            states = torch.stack(list(islice(trajectory(flow, noise, student.config.grid), steps)), dim=1)
        times = torch.tensor(timesteps_of(student), device=states.device, dtype=states.dtype)
        each = torch.arange(len(states), device=states.device)
        timestep = draw_timesteps(steps, keys).to(states.device)
        x, t = states[each, timestep], times[timestep]
        return x + like(1 - t, x) * over_step(flow, x, t, torch.ones_like(t))

    def last_call(self, student: Model, keys: Tensor) -> Tensor:
        """See DistributionMatching.last_call."""
        if self.through == "all":
            return super().last_call(student, keys)
        times = timesteps_of(student)
        return torch.tensor(times)[draw_timesteps(len(times) - 1, keys)]
