"""AnyFlow: fine-tune a flow map on its own samples, for several numbers of steps at once."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

from fewstep import randomness, spacings
from fewstep.errors import UserError
from fewstep.flow import Flow, as_flow, as_state
from fewstep.lazy import lazy_imports
from fewstep.methods._distribution_matching import DistributionMatching
from fewstep.methods._spans import must_take_until
from fewstep.methods.flow_map import FlowMap
from fewstep.paths import like
from fewstep.training.method import Batch, Needs, Nets

if TYPE_CHECKING:
    from torch import Tensor

    from fewstep.model import Model

with lazy_imports():
    import torch


@dataclass(frozen=True, kw_only=True)
class Anyflow(DistributionMatching):
    """Distribution matching distillation of a flow map, through three jumps for any number of steps.

    Source: the on-policy stage of Gu et al. 2026 (arXiv 2605.13724), with the gradient of `dmd`. A sample of
    K steps is made in three: from noise to a random one of its timesteps, over the step there, and from its
    end to data. Where the flow map is right, that is the sample of K steps, and gradients go through three
    calls for any K. The student must be a flow map already: wrong jumps lead to states that do not occur.
    Unlike there, times of comparison are uniform by default. The loss that made the flow map is added with a
    map_weight.
    """

    trained_times = "all"

    steps: tuple[int, ...] = (1, 2, 4, 8)
    """Numbers of equal steps that it learns to sample with; each sample of a batch draws one."""

    map_weight: float = 0.0
    """Weight of the loss of `flow_map`, with its default options, beside that of the scores: the student
    remains a flow map. Above 0 the stream is "trajectories"."""

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "steps", tuple(self.steps))
        if not self.steps or not all(type(steps) is int and steps >= 1 for steps in self.steps):
            raise UserError(f"steps must be whole numbers from 1, got {list(self.steps)}")
        if not 0 <= self.map_weight < math.inf:
            raise UserError(f"map_weight must be a weight from 0, got {self.map_weight}")
        if self.map_weight and self.regression_weight:
            raise UserError(
                "map_weight learns from trajectories and regression_weight from pairs; set one of them to 0"
            )

    @property
    def needs(self) -> Needs:
        """See Method.needs."""
        needs = replace(super().needs, second_time=True, flow_map=True)
        if self.map_weight:
            options = {**needs.options, "stream": "map_weight", "all_states": "map_weight"}
            return replace(needs, stream="trajectories", all_states=True, options=options)
        return needs

    def check_sampling(self, student: Model) -> None:
        """See OnPolicyDistillation.check_sampling."""
        must_take_until(student)

    def own_samples(self, student: Model, noise: Tensor, conditions: Batch, keys: Tensor) -> Tensor:
        """See OnPolicyDistillation.own_samples."""
        flow = as_flow(student)
        times = self.jumps(flow, keys).to(as_state(noise))
        x = as_state(noise) * (1 - flow.t_start)
        for t, until in pairwise(times.unbind(1)):
            asked = t.clamp(max=flow.t_end)  # a jump of no length at the end of the path asks before it
            velocity = flow(x, asked, until=until, **conditions).to(x.dtype)
            x = x + like(until - t, x) * velocity
        return x

    def generator_loss(self, nets: Nets, samples: Tensor, batch: Batch, keys: Tensor) -> Tensor:
        """See OnPolicyDistillation.generator_loss."""
        losses = super().generator_loss(nets, samples, batch, keys)
        if not self.map_weight:
            return losses
        return losses + self.map_weight * FlowMap().loss(nets, batch, "student", 0.0, keys)

    def jumps(self, flow: Flow, keys: Tensor) -> Tensor:
        """Return where each sample's jumps start and end, (n, 4), from the flow's start to 1."""
        which, place = (randomness.uniforms(f"train.jumps.{name}", keys) for name in ("steps", "place"))
        longest = max(self.steps)
        table = [spacings.uniform(steps, start=flow.t_start, end=flow.t_end) for steps in self.steps]
        padded = [[*times, *[math.nan] * (longest + 1 - len(times))] for times in table]
        grids = torch.tensor(padded, dtype=torch.float64)
        row = (which * len(self.steps)).long()
        step = (place * torch.tensor(self.steps)[row]).long()
        first, last = torch.full_like(which, flow.t_start), torch.ones_like(which)
        return torch.stack([first, grids[row, step], grids[row, step + 1], last], dim=1)
