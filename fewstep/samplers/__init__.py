"""Samplers go from noise to data without following the flow; one file a sampler, found by its name.

A solver (fewstep.solvers) takes each noise to the sample that the flow makes of it. A sampler does not, so
searches, pairs and trajectories take solvers alone. A sampler is a frozen dataclass whose fields are its
options. Each of its steps takes one velocity.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol

from fewstep import randomness, registry
from fewstep.errors import UserError
from fewstep.finite import refuse_not_finite
from fewstep.flow import Flow, as_state, must_know_all_times, noise_of
from fewstep.grids import Grid
from fewstep.noises import must_be_normal
from fewstep.solvers import CountedFlow, Solution, must_fit

if TYPE_CHECKING:
    from torch import Tensor

registry.add_plugins(__name__, __path__)


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What one call of a flow says of a state x = (1 - t) noise + t data."""

    data: Tensor  # (batch, *shape)  E[data | x]
    noise: Tensor  # (batch, *shape)  E[noise | x], which is -(1 - t) times the score


class Sampler(Protocol):
    """What a file of this package defines."""

    learned_from: ClassVar[Literal["independent", "pairs"]]
    """What its model must have learned from: noise drawn independently of the data, which gives a score, or
    pairs, of which each noise has one data."""

    def step(self, estimate: Estimate, noise: Tensor, fresh: Tensor, t: float, t_next: float) -> Tensor:
        """Return the state (batch, *shape) at t_next.

        Args:
            estimate: of the state at t.
            noise: what the sample started from, (batch, *shape).
            fresh: standard normal noise, drawn for this step alone, (batch, *shape).
            t: where the step starts, canonical.
            t_next: where it ends; 1 in the last step.
        """


def sample(
    flow: Flow, noise: Tensor, times: Sequence[float], sampler: Sampler, *, keys: Tensor, **conditions: Tensor
) -> Solution:
    """Return the samples, (batch, *shape), that a sampler makes of `noise`, and the calls it took.

    Args:
        flow: The flow of a model that learned from what the sampler asks for.
        noise: (batch, *shape); states are float32, or float64 where it is.
        times: Those of a Grid: from the flow's t_start to 1.
        sampler: Takes the steps.
        keys: Of the samples, int64 (batch, 2): they name the noise of each step; see fewstep.randomness.
        **conditions: What the flow is conditioned on, each (batch, ...).

    Raises:
        UserError: if the flow gives average velocities, or is of a student of its own grid alone, or gives no
            score and the sampler needs one, as that of a model that learned from pairs or a coupling, or is
            of a model that did not learn from pairs and the sampler needs them, or the times don't fit it.
        NotFiniteError: if a state is not finite; the message has the step, and the time.
    """
    must_know_all_times(flow, by="a sampler")
    if sampler.learned_from == "pairs" and getattr(flow, "learned_from", "pairs") != "pairs":
        raise UserError(
            "this sampler needs a model that learned from pairs, of which each noise has one data; this one "
            "did not, or the check of its pairs failed: take a model of reflow, or a solver"
        )
    if sampler.learned_from == "independent":
        if (learned_from := getattr(flow, "learned_from", None)) == "pairs":
            raise UserError(
                "this sampler needs the score, which a model that learned from pairs does not have, as each "
                "noise has one data; take the teacher that made the pairs, or a solver"
            )
        if learned_from == "coupled":
            raise UserError(
                "this sampler needs the score, which a model whose noise went with its data does not have, "
                "be it by a coupling or by pairs that failed their checks; take a model that learned from "
                "independent noise, or a solver"
            )
        must_be_normal(noise_of(flow), what="the score that this sampler needs")
    grid = Grid(tuple(times))
    must_fit(flow, grid)
    counted, noise = CountedFlow(flow, conditions), as_state(noise)
    x = noise * (1 - grid.times[0])
    for number, (t, t_next) in enumerate(pairwise(grid.times)):
        fresh = randomness.noises(f"sampler.{number}", keys, tuple(noise.shape[1:])).to(noise)
        velocity = counted(x, t)
        estimate = Estimate(data=x + (1 - t) * velocity, noise=x - t * velocity)
        x = sampler.step(estimate, noise, fresh, t, t_next)
        refuse_not_finite("state", x, t_next, f" after step {number + 1} of {grid.steps}")
    return Solution(x, counted.nfe)
