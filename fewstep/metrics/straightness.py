"""How straight a flow is, and how far few steps end from where many do. No data needed."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from fewstep.flow import Flow
from fewstep.grids import Grid
from fewstep.solvers import CountedFlow, trajectory


@torch.no_grad()
def straightness(flow: Flow, noise: Tensor, grid: Grid, **conditions: Tensor) -> float:
    """Return S, the mean squared distance of a trajectory's slope from its average slope.

    S = integral of E|(Z1 - Z0) - dZ/dt|^2 dt, Liu et al. 2022 (arXiv 2209.03003), eq. 6, along the
    flow's own trajectories; 0 when they are straight and one Euler step is exact. It is the MEAN
    over the dimensions of a sample, where some code bases sum, so that sizes of images compare.
    Slopes are those of the grid's steps, weighted by their length: use a fine grid, of 50 steps or more.

    Args:
        flow: The flow to judge.
        noise: Where its trajectories start, (batch, *shape).
        grid: The steps to follow them with.
        **conditions: What the flow is conditioned on, each (batch, ...).
    """
    _, turns = turning(trajectory(CountedFlow(flow, conditions), noise, grid), grid.times)
    return float(turns.mean()) / noise[0].numel()


def turning(states: Iterable[Tensor], times: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Return where trajectories end, (batch, *shape), and S of each, summed over coordinates, (batch,).

    Args:
        states: (batch, *shape) at each time; they may be made one by one, none is kept.
        times: Increasing, two or more.
    """
    states = iter(states)
    start = last = next(states).double()
    span, squares = times[-1] - times[0], torch.zeros(len(start), dtype=start.dtype, device=start.device)
    for t, t_next, state in zip(times[:-1], times[1:], states, strict=True):
        slope = (state.double() - last) / (t_next - t)
        squares += slope.square().flatten(1).sum(1) * (t_next - t) / span
        last = state.double()
    # the variance of the slope over time: E|slope|^2 - |E slope|^2
    return last, squares - ((last - start) / span).square().flatten(1).sum(1)


def endpoint_rmse(samples: Tensor, reference: Tensor) -> float:
    """Return the root mean square difference, over all numbers, of samples from the same noise.

    How far a student or a coarse grid is from the teacher's map, both (batch, *shape). A student
    matched to the data's distribution may well be far from the map and good all the same.
    """
    assert samples.shape == reference.shape
    return float((samples.double() - reference.double()).square().mean().sqrt())
