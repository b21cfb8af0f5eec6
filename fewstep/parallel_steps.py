"""Euler steps that are found together: fewer network calls one after the other, each on more states.

The states of a window of steps are guessed, the velocities at all of them are asked for in one call, and the
states are added up again from these, until they stay as they are: Picard's iteration, with which ParaDiGMS
samples (Shih et al. 2023, arXiv 2305.16317). After k rounds the first k states are those of Euler's steps,
whatever was guessed, so K steps take K rounds at most.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from fewstep.errors import UserError
from fewstep.finite import refuse_not_finite
from fewstep.flow import Flow, as_state, velocity_until
from fewstep.grids import Grid
from fewstep.lazy import lazy_imports
from fewstep.solvers import Solution, must_fit

if TYPE_CHECKING:
    from torch import Tensor

with lazy_imports():
    import torch

TOLERANCE = 1e-3


@dataclass(frozen=True)
class Parallel(Solution):
    """Where the steps arrived, and what they cost; `nfe` counts a call for each state of a sample."""

    rounds: int
    """Calls one after the other; guided ones count once."""


def integrate(
    flow: Flow,
    noise: Tensor,
    grid: Grid,
    *,
    at_once: int,
    tolerance: float = TOLERANCE,
    **conditions: Tensor,
) -> Parallel:
    """Return the samples, (batch, *shape), that Euler steps along `grid` make of `noise`, near to exactly.

    Args:
        flow: The flow, whose batch may be `at_once` times that of the noise.
        noise: Of the samples, (batch, *shape).
        grid: The timesteps; its solver is Euler.
        at_once: Steps of a window.
        tolerance: A state is taken when no sample moves by more in a round, as the root of the mean square
            over its numbers. At 0 all states are those of Euler's steps, if a network gives the same for a
            sample in another batch. Otherwise how near a sample is depends on the others of its batch.
        **conditions: Of the samples, each (batch, ...).

    Raises:
        UserError: if the grid does not fit the flow, or its solver is another, or the flow gives average
            velocities, or there are no steps to take at once.
        NotFiniteError: if a state is not finite.
    """
    must_fit(flow, grid)
    if grid.solver != "euler" or velocity_until(flow) != "now":
        raise UserError(
            f"steps at once are those of Euler; the grid's solver is {grid.solver}, and a model of average "
            "velocities has no use for them: take one step after the other"
        )
    if at_once < 1 or tolerance < 0:
        raise UserError(
            f"steps at once must be 1 or more, and a tolerance 0 or more, got {at_once}, {tolerance}"
        )
    x = as_state(noise) * (1 - grid.times[0])
    times = torch.tensor(grid.times, dtype=torch.float64)
    spans = torch.tensor([b - a for a, b in pairwise(grid.times)], dtype=x.dtype, device=x.device)
    states, first, rounds, asked = x[None], 0, 0, 0
    while first < grid.steps:
        last = min(first + at_once, grid.steps)
        guesses = _guessed(states, last - first)
        slopes = _slopes(flow, guesses[:-1], times[first:last], conditions)
        rounds, asked = rounds + 1, asked + last - first
        states = _followed(guesses[0], slopes, spans[first:last])
        refuse_not_finite("state", states[-1], grid.times[last], f" in round {rounds}")
        right = _right(states, guesses, tolerance)
        states, first = states[right:], first + right
    return Parallel(states[-1], asked * flow.nfe_per_velocity, rounds)


def _followed(x: Tensor, slopes: Tensor, spans: Tensor) -> Tensor:
    """Return the states (steps + 1, batch, *shape) that follow x by slopes over spans of time (steps,)."""
    steps = slopes * spans.view(-1, *[1] * x.dim())
    return torch.cat([x[None], steps]).cumsum(0)


def _guessed(states: Tensor, steps: int) -> Tensor:
    """Return the states of so many steps, of which the last are not known: they go on as the one before."""
    missing = steps + 1 - len(states)
    if not missing:
        return states
    ahead = torch.arange(1, missing + 1, dtype=states.dtype, device=states.device)
    step = states[-1] - states[-2] if len(states) > 1 else torch.zeros_like(states[-1])
    return torch.cat([states, states[-1] + ahead.view(-1, *[1] * step.dim()) * step])


def _slopes(flow: Flow, states: Tensor, times: Tensor, conditions: dict[str, Tensor]) -> Tensor:
    """Return the velocities (steps, batch, *shape) at such states and times (steps,), by one call."""
    steps, batch = states.shape[:2]
    t = times.to(states).repeat_interleave(batch)
    rows = {name: value.repeat(steps, *[1] * (value.dim() - 1)) for name, value in conditions.items()}
    return flow(states.flatten(0, 1), t, **rows).to(states.dtype).unflatten(0, (steps, batch))


def _right(states: Tensor, guesses: Tensor, tolerance: float) -> int:
    """Return how many steps are done: the first, and those after it that moved no sample by too much."""
    apart = (states - guesses)[1:].flatten(2).square().mean(2).sqrt().amax(1)
    done = int((apart <= tolerance).cumprod(0).sum())
    return max(done, 1)
