"""How straight a flow is, and how far few steps end from where many do. No data needed."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fewstep.flow import Flow
from fewstep.grids import Grid
from fewstep.solvers import CountedFlow, trajectory


@dataclass(frozen=True)
class Turns:
    """How much a flow's trajectories turn; both are 0 if one step is exact.

    They are MEANS over the dimensions of a sample, where some code bases sum, so that sizes of images
    compare.
    """

    straightness: float
    """S = integral of E|(Z1 - Z0) - dZ/dt|^2 dt, the variance of the slope; Liu et al. 2022
    (arXiv 2209.03003), eq. 6."""
    first_order: float
    """F = integral of E|noise(t) - mean noise|^2 dt, where noise(t) = Z - t dZ/dt is what the flow
    takes for the noise; Wang et al. 2024 (arXiv 2410.07303). Turns near the data count more than in S."""


@torch.no_grad()
def turns(flow: Flow, noise: Tensor, grid: Grid, **conditions: Tensor) -> Turns:
    """Return S and F along the flow's own trajectories.

    Slopes are those of the grid's steps, weighted by their length: use a fine grid, of 50 steps or more.

    Args:
        flow: The flow to judge.
        noise: Where its trajectories start, (batch, *shape).
        grid: The steps to follow them with.
        **conditions: What the flow is conditioned on, each (batch, ...).

    Raises:
        UserError: if the grid does not fit the flow; see fewstep.solvers.must_fit.
    """
    each = turning(trajectory(CountedFlow(flow, conditions), noise, grid), grid.times)
    found, dimensions = [float(squares.mean()) for squares in each], noise[0].numel()
    return Turns(found[0] / dimensions, found[1] / dimensions)


def turning(states: Iterable[Tensor], times: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Return S and F of each trajectory, summed over coordinates, both (batch,).

    Args:
        states: (batch, *shape) at each time; they may be made one by one, none is kept.
        times: Increasing, two or more.
    """
    states = iter(states)
    start = last = next(states).double()
    span, squares = times[-1] - times[0], torch.zeros(len(start), dtype=start.dtype, device=start.device)
    mean_noise, noise_squares = torch.zeros_like(start), squares.clone()
    for t, t_next, state in zip(times[:-1], times[1:], states, strict=True):
        slope, share = (state.double() - last) / (t_next - t), (t_next - t) / span
        squares += slope.square().flatten(1).sum(1) * (t_next - t) / span
        noise = last - t * slope
        mean_noise += noise * share
        noise_squares += noise.square().flatten(1).sum(1) * share
        last = state.double()
    # variances over time: E|z|^2 - |E z|^2
    straight = squares - ((last - start) / span).square().flatten(1).sum(1)
    return straight, noise_squares - mean_noise.square().flatten(1).sum(1)


def endpoint_rmse(samples: Tensor, reference: Tensor) -> float:
    """Return the root mean square difference, over all numbers, of samples from the same noise.

    How far a student or a coarse grid is from the teacher's map, both (batch, *shape). A student
    matched to the data's distribution may well be far from the map and good all the same.
    """
    assert samples.shape == reference.shape
    return float((samples.double() - reference.double()).square().mean().sqrt())
