"""Checks that pairs must pass before a model is trained on them; bad pairs train without complaint."""

import torch
from torch import Tensor

from fewstep.errors import UserError
from fewstep.flow import Flow, noise_of
from fewstep.grids import Grid
from fewstep.metrics.straightness import turning
from fewstep.pairs.backwards import integrate_back
from fewstep.pairs.crossing import crossing
from fewstep.pairs.pair_checks import PairChecks
from fewstep.pairs.statistics import PairStatistics
from fewstep.solvers import CountedFlow, trajectory


@torch.no_grad()
def check_pairs(
    pairs: dict[str, Tensor],
    flow: Flow,
    *,
    grid: Grid,
    batch: int,
    statistics: PairStatistics | None = None,
    independent: bool = False,
    device: torch.device | str = "cpu",
) -> PairChecks:
    """Return what the checks find on pairs that `flow` is said to have made with `grid`.

    The flow is followed back from the data and once more from the noise: back for whether it was this
    flow, forth for S, since a flow that ends in few points does not find its way back. With V that makes
    the calls of two pairs and 8 velocities for each of `pairs`.

    S and V account for what a flow gains over random pairs (Liu et al. 2022, arXiv 2209.03003, section
    3): independent_cost - cost = S + V, if the velocity is the mean of the lines that pass, from noise to
    the flow's own samples. That is so for an exact model of independent pairs, without guidance: a
    reflowed model learnt other lines, and guidance follows the mean of none.

    Args:
        pairs: "noise", "data", (n, *shape), and what the flow is conditioned on; some hundreds are enough.
        flow: the teacher, its network in eval mode on `device`.
        grid: the grid of make_pairs.
        batch: samples in one network call.
        statistics: of all the pairs there are; None for those of `pairs` alone.
        independent: whether the teacher learnt from noise that was drawn independently of the data;
            without that, and under guidance, there is no V and no gap.
        device: where to compute.

    Returns:
        The measurements.

    Raises:
        UserError: if there are fewer than 2 pairs, the flow has no velocity at each time, or the grid does
            not fit it.
    """
    n = len(pairs["noise"])
    if n < 2:
        raise UserError(f"pairs are checked against each other: make at least 2, got {n}")
    law = noise_of(flow)
    statistics = statistics or PairStatistics.of(pairs, total=n, law=law)
    found: dict[str, list[Tensor]] = {"back": [], "turns": [], "first order": [], "cross": [], "gap": []}
    for start in range(0, n, batch):
        part = {name: field[start : start + batch].to(device) for name, field in pairs.items()}
        noise, data = part["noise"], part["data"]
        conditions = {name: field for name, field in part.items() if name not in ("noise", "data", "weight")}
        found["back"].append(integrate_back(flow, data, grid, **conditions))
        turns, first_order = turning(trajectory(CountedFlow(flow, conditions), noise, grid), grid.times)
        found["turns"].append(turns)
        found["first order"].append(first_order)
        if independent and flow.nfe_per_velocity == 1:
            cross, random_cost = crossing(flow, data, range(start, start + len(data)), **conditions)
            cost = (data - noise).double().square().flatten(1).sum(1)
            found["cross"].append(cross)
            found["gap"].append(random_cost - cost - turns - cross)
    measured = {name: torch.cat(parts).cpu().double() for name, parts in found.items() if parts}
    noise, back, gap = pairs["noise"].double(), measured["back"], measured.get("gap")
    normal = statistics.normal
    strangers = (back - noise.roll(1, 0)).square().flatten(1).mean(1)
    noise_off, noise_z = statistics.noise_off(law)
    return PairChecks(
        count=statistics.count,
        noise_z=noise_z,
        noise_off=noise_off,
        data_z=statistics.data.worst()[1],
        noise_norm=normal.norm,
        noise_autocorrelation=normal.autocorrelation,
        worst_norm_z=normal.farthest,
        duplicates=statistics.copies.found,
        back_rmse=float((back - noise).square().mean().sqrt()),
        stranger_rmse=float(strangers.mean().sqrt()),
        back_se=float(strangers.std() / strangers.mean().clamp(min=1e-300) / (2 * n) ** 0.5),
        cost=statistics.cost,
        independent_cost=statistics.independent_cost,
        correlation=statistics.correlation,
        data_variance=float(statistics.data.variance.sum()),
        straightness=float(measured["turns"].mean()),
        first_order=float(measured["first order"].mean()),
        crossing=None if gap is None else float(measured["cross"].mean()),
        gap=None if gap is None else float(gap.mean()),
        gap_se=None if gap is None else float(gap.std() / n**0.5),
    )
