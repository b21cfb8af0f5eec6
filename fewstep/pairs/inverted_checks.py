"""Checks of inverted pairs: does their noise have its law, and does it lead back to the data?"""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from fewstep.flow import Flow, noise_of
from fewstep.grids import Grid
from fewstep.pairs.pair_checks import BACK_ADVICE, Z_LIMIT
from fewstep.pairs.statistics import PairStatistics
from fewstep.solvers import integrate

RETURN_LIMIT = 0.5  # of the distance to another pair's data


@dataclass(frozen=True, kw_only=True)
class InvertedChecks:
    """What was measured on inverted pairs alone; `problems` and `advice` judge it."""

    count: int
    """Inverted pairs; the statistics of the noise are of all of them."""
    noise_z: float
    """How far, in standard errors, their noise is from standard normal; see PairChecks.noise_z."""
    noise_off: str
    """The statistic that is so far off."""
    return_rmse: float
    """Root mean square distance from the data, when the flow is followed from the noise in half the steps'
    lengths."""
    stranger_rmse: float
    """The same distance from another pair's data."""

    def problems(self) -> list[str]:
        """Return what is wrong, a sentence each; empty if the pairs can be trained on."""
        found = []
        if not self.noise_z < Z_LIMIT:
            found.append(
                f"the noise of the {self.count} inverted pairs is not standard normal: its {self.noise_off} "
                f"is off by {self.noise_z:.3g} standard errors, so the flow's samples have another law than "
                "the data; train the model longer, take more calls, or set invert to 0"
            )
        if not self.return_rmse < RETURN_LIMIT * self.stranger_rmse:
            found.append(f"{self._missed()}, so these are no pairs of the flow: take more calls")
        return found

    def advice(self) -> list[str]:
        """Return why a model trained on the pairs may come out worse than hoped, a sentence each."""
        if BACK_ADVICE * self.stranger_rmse < self.return_rmse < RETURN_LIMIT * self.stranger_rmse:
            return [f"{self._missed()}: the steps are too coarse for this flow, so take more calls"]
        return []

    def _missed(self) -> str:
        ratio = self.return_rmse / max(self.stranger_rmse, 1e-300)
        return (
            "following the flow from the noise of inverted pairs, in twice as many steps, misses their data "
            f"by {ratio:.0%} of the distance to another pair's"
        )


@torch.no_grad()
def check_inverted(
    pairs: dict[str, Tensor],
    flow: Flow,
    *,
    grid: Grid,
    batch: int,
    statistics: PairStatistics,
    device: torch.device | str = "cpu",
) -> InvertedChecks:
    """Return what the checks find on pairs that invert_pairs made with `flow` and `grid`.

    The way back from the data would only repeat what made the noise. The flow is followed forth instead,
    with each step halved: a solver of even order all but retraces its own error in steps of the same length.

    Args:
        pairs: "noise", "data", (n, *shape), and what the flow is conditioned on; some hundreds are enough.
        flow: the model that made them, its network in eval mode on `device`.
        grid: the grid of invert_pairs.
        batch: samples in one network call.
        statistics: of all inverted pairs, and of no others.
        device: where to compute.

    Raises:
        UserError: if the grid does not fit the flow.
    """
    ends, finer = [], halved(grid)
    for start in range(0, len(pairs["noise"]), batch):
        part = {name: field[start : start + batch].to(device) for name, field in pairs.items()}
        noise = part.pop("noise")
        del part["data"]
        ends.append(integrate(flow, noise, finer, **part).x.cpu().double())
    data, end = pairs["data"].double(), torch.cat(ends)
    noise_off, noise_z = statistics.noise_off(noise_of(flow))
    return InvertedChecks(
        count=statistics.count,
        noise_z=noise_z,
        noise_off=noise_off,
        return_rmse=float((end - data).square().mean().sqrt()),
        stranger_rmse=float((end - data.roll(1, 0)).square().mean().sqrt()),
    )


def halved(grid: Grid) -> Grid:
    """Return the grid with each step halved."""
    times = [t for start, stop in pairwise(grid.times) for t in (start, (start + stop) / 2)]
    return Grid((*times, grid.times[-1]), solver=grid.solver, guidance=grid.guidance)
