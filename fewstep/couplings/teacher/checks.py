"""Checks that pairs must pass before a model is trained on them; bad pairs train without complaint."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from fewstep.errors import UserError
from fewstep.flow import Flow, batch_times
from fewstep.grids import Grid
from fewstep.solvers import integrate

Z_LIMIT = 6.0  # a normal statistic exceeds it once in 5e8 draws
BACK_LIMIT = 0.9  # of the distance to a stranger's noise
COST_LIMIT = 1.01  # of the cost of independent pairs


@dataclass(frozen=True, kw_only=True)
class PairChecks:
    """What was measured on pairs of noise and data; `problems` judges it."""

    noise_z: float
    """How far, in standard errors, the noise is from standard normal in its worst statistic."""
    data_z: float
    """The same of the data, which should not be normal noise."""
    duplicates: int
    """Noises that occur more than once, each further one counted."""
    back_rmse: float
    """Root mean square distance from the noise, when the flow is integrated back from the data."""
    stranger_rmse: float
    """The same distance from another pair's noise: what a wrong pair would give."""
    cost: float
    """Mean squared distance of a pair, summed over coordinates."""
    independent_cost: float
    """The same if noise and data were paired at random."""

    def problems(self) -> list[str]:
        """Return what is wrong, a sentence each; empty if the pairs can be trained on."""
        found = []
        if not self.noise_z < Z_LIMIT:
            if self.data_z < Z_LIMIT:
                found.append("the pairs are reversed: their data is standard normal and their noise is not")
            else:
                found.append(f"the noise is not standard normal (off by {self.noise_z:.3g} standard errors)")
        if self.duplicates:
            found.append(f"{self.duplicates} noises are copies of another one: do shards share indices?")
        if not self.back_rmse < BACK_LIMIT * self.stranger_rmse:
            found.append(
                f"integrating back from the data misses the noise by {self.back_rmse:.3g}, no better than "
                f"the noise of another pair ({self.stranger_rmse:.3g}): was it this model, with this grid?"
            )
        if not self.cost < COST_LIMIT * self.independent_cost:
            found.append(
                f"pairs are further apart ({self.cost:.4g}) than random ones ({self.independent_cost:.4g})"
            )
        return found


class Backwards:
    """A flow run from data (its time 0) to noise (its time 1).

    Where the flow gives no velocity, near an end, the last one it gives is used; on the canonical
    path that is exact for the stretch before t_start.
    """

    t_start, t_end = 0.0, 1.0

    def __init__(self, flow: Flow) -> None:
        self.flow = flow
        self.calls_per_velocity = flow.calls_per_velocity

    def __call__(self, x: Tensor, t: Tensor | float, **conditions: Tensor) -> Tensor:
        """See Flow."""
        forward = (1 - batch_times(t, x)).clamp(self.flow.t_start, self.flow.t_end)
        return -self.flow(x, forward, **conditions)


def backwards(grid: Grid) -> Grid:
    """Return the grid that visits the same times from data to noise."""
    times = [1 - t for t in reversed(grid.times)]
    return Grid(tuple(times if times[-1] == 1 else [*times, 1.0]), solver=grid.solver, guidance=grid.guidance)


@torch.no_grad()
def check_pairs(
    pairs: dict[str, Tensor],
    flow: Flow,
    *,
    grid: Grid,
    batch: int,
    device: torch.device | str = "cpu",
) -> PairChecks:
    """Return what the checks find on pairs that `flow` is said to have made with `grid`.

    Args:
        pairs: "noise", "data", (n, *shape), and perhaps "label", (n,); some hundreds are enough.
        flow: the teacher, its network in eval mode on `device`.
        grid: the grid of make_pairs.
        batch: samples in one network call.
        device: where to compute.

    Returns:
        The measurements.

    Raises:
        UserError: if there are fewer than 2 pairs.
    """
    noise, data = pairs["noise"].double(), pairs["data"].double()
    if len(noise) < 2:
        raise UserError(f"pairs are checked against each other: make at least 2, got {len(noise)}")
    back = torch.cat(list(_integrate_back(pairs, flow, grid, batch, device)))
    mean_products = 2 * (noise.mean(0) * data.mean(0)).sum()
    return PairChecks(
        noise_z=normal_z(noise),
        data_z=normal_z(data),
        duplicates=len(noise) - len({row.numpy().tobytes() for row in noise}),
        back_rmse=float((back - noise).square().mean().sqrt()),
        stranger_rmse=float((back - noise.roll(1, 0)).square().mean().sqrt()),
        cost=float((data - noise).square().flatten(1).sum(1).mean()),
        independent_cost=float((data**2 + noise**2).flatten(1).sum(1).mean() - mean_products),
    )


def _integrate_back(
    pairs: dict[str, Tensor], flow: Flow, grid: Grid, batch: int, device: torch.device | str
) -> Iterator[Tensor]:
    for start in range(0, len(pairs["data"]), batch):
        part = {name: field[start : start + batch].to(device) for name, field in pairs.items()}
        conditions = {"label": part["label"]} if "label" in part else {}
        yield integrate(Backwards(flow), part["data"], backwards(grid), **conditions).x.cpu().double()


def normal_z(values: Tensor) -> float:
    """Return how many standard errors `values`, (n, *shape), are from independent standard normal.

    The largest over four averages whose law is known if they are: the mean, the square, the fourth
    power, and the product of neighbours.
    """
    flat = values.flatten(1).double()
    averages = [
        (flat, 0.0, 1.0),  # what is averaged, its mean and its variance if normal
        (flat**2, 1.0, 2.0),
        (flat**4, 3.0, 96.0),
        (flat[:, 1:] * flat[:, :-1], 0.0, 1.0),
    ]
    scores = [
        abs(float(x.mean()) - mean) * (x.numel() / variance) ** 0.5
        for x, mean, variance in averages
        if x.numel()
    ]
    return max(scores, key=lambda z: float("inf") if z != z else z)
