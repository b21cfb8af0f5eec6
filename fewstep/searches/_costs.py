"""What it costs to jump from one knot of a fine Euler trajectory to another, for all pairs at once.

The cost of BOSS (Nguyen, Nguyen and Nguyen 2024, arXiv 2312.16414) is how far one long Euler step
lands from the state that the fine steps reach:

    c[j, k] = mean over noises of | x_k - x_j - (t_k - t_j) v_j |^2, summed over dimensions.

Since x_k - x_j is a sum of fine steps, that difference is r[j, k] = sum_{j<i<k} (t_k - t_i) e_i with
the velocity increments e_i = v_i - v_{i-1}: all costs follow from the Gram matrix of the increments,
one matrix product a batch instead of a pass over all states for each of the K^2 / 2 pairs. The Gram
matrix of the velocities themselves would do in theory, but in float32 it loses the small costs.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from fewstep.errors import UserError
from fewstep.flow import Flow
from fewstep.grids import Grid
from fewstep.progress import SILENT, Progress

GROUP = 8  # noises in one float32 matrix product; groups are summed in float64


@dataclass(frozen=True)
class CostMatrix:
    """The cost of every jump forwards between the knots of a fine grid."""

    times: tuple[float, ...]
    """The K + 1 fine knots, canonical time."""
    costs: Tensor  # float64 (K + 1, K + 1); [j, k] from knot j to knot k, inf unless j < k
    noises: int
    """Trajectories averaged over."""

    def total(self, knots: Sequence[int]) -> float:
        """Return the cost of jumping along `knots`, positions in `times`."""
        return float(sum(self.costs[j, k] for j, k in pairwise(knots)))


@torch.no_grad()
def jump_costs(
    flow: Flow,
    grid: Grid,
    batches: Iterable[tuple[Tensor, dict[str, Tensor]]],
    *,
    progress: Progress = SILENT,
) -> CostMatrix:
    """Return the cost of every jump on the Euler trajectories that `grid` makes of the noises.

    Work is done in the noise's own precision. Memory is one batch of velocities at all knots,
    whatever the number of batches.

    Args:
        flow: The flow to follow.
        grid: The fine knots; they need not be equally spaced.
        batches: Noise (n, *shape) and its conditions, each (n, ...).
        progress: Told of each batch done, in noises.

    Returns:
        The costs, averaged over all noises.

    Raises:
        UserError: if the grid asks for a velocity where the flow has none, if there is no noise, or if
            the velocities are not finite.
    """
    first, last = grid.times[0], grid.times[-2]
    if first < flow.t_start - 1e-9 or last > flow.t_end + 1e-9:
        raise UserError(
            f"the fine grid needs velocities from {first} to {last}, but this model gives them from "
            f"{flow.t_start} to {flow.t_end}; start it there, or take fewer fine steps"
        )
    gram = torch.zeros(grid.steps - 1, grid.steps - 1, dtype=torch.float64)
    noises = 0
    for noise, conditions in batches:
        for group in _increments(flow, grid, noise, conditions).split(GROUP, dim=1):
            rows = group.flatten(1)
            gram += (rows @ rows.T).double().cpu()
        noises += len(noise)
        progress.advance(len(noise))
    if noises == 0:
        raise UserError("a step search needs at least one noise, got none")
    if not gram.isfinite().all():
        raise UserError("the model's velocities are not finite; its step sizes can't be searched for")
    costs = costs_of(grid.times, gram.numpy() / noises)
    return CostMatrix(grid.times, torch.from_numpy(costs), noises)


def costs_of(times: Sequence[float], gram: np.ndarray) -> np.ndarray:
    """Turn the Gram matrix of the increments at the inner knots into the cost of every jump.

    From r[i-1, k] = r[i, k] + (t_k - t_i) e_i, and with L[i, k] = max(t_k - t_i, 0),

        c[i-1, k] = c[i, k] + L[i, k] (2 sum_{l>i} G[i, l] L[l, k] + G[i, i] L[i, k]).

    Every term vanishes for k <= i, so the cost of a single fine step is exactly 0.

    Args:
        times: The K + 1 knots.
        gram: Mean inner products <e_i, e_l>, float64 (K - 1, K - 1), i and l from 1 to K - 1.

    Returns:
        Costs, float64 (K + 1, K + 1), inf unless j < k.
    """
    knots = np.asarray(times)
    left = np.maximum(knots[None, :] - knots[1:-1, None], 0)  # (K - 1, K + 1)
    growth = left * (2 * np.triu(gram, 1) @ left + gram.diagonal()[:, None] * left)
    costs = np.zeros((len(knots), len(knots)))
    costs[:-2] = growth[::-1].cumsum(axis=0)[::-1]
    costs = costs.clip(min=0)  # rounding alone can make it negative, on a flow that is straight
    costs[np.tril_indices(len(knots))] = np.inf
    return costs


def _increments(flow: Flow, grid: Grid, noise: Tensor, conditions: dict[str, Tensor]) -> Tensor:
    """Return v_i - v_{i-1} at the inner knots of the Euler trajectory, (K - 1, n, dimensions)."""
    increments = noise.new_empty(grid.steps - 1, len(noise), noise[0].numel())
    x = noise * (1 - grid.times[0])
    last = None
    for i, (t, t_next) in enumerate(pairwise(grid.times)):
        velocity = flow(x, t, **conditions)
        x = x + (t_next - t) * velocity
        if last is not None:
            increments[i - 1] = (velocity - last).flatten(1)
        last = velocity
    return increments
