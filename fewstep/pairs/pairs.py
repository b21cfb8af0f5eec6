"""Pairs: noise, and the data that a flow carries it to; Liu et al. 2022 (arXiv 2209.03003), section 2."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fewstep.draws import draws
from fewstep.flow import Flow
from fewstep.grids import Grid
from fewstep.pairs._followed import followed
from fewstep.reference import Adaptive, follow


@torch.no_grad()
def make_pairs(
    flow: Flow,
    *,
    seed: int,
    start: int,
    stop: int,
    shape: tuple[int, ...],
    shares: Sequence[float],
    grid: Grid | Adaptive,
    batch: int,
    device: torch.device | str = "cpu",
) -> dict[str, Tensor]:
    """Return the pairs start <= index < stop: "noise" and "data", (n, *shape), and "label", (n,).

    Args:
        flow: the teacher, its network in eval mode on `device`.
        seed: of the stream "couple", from which the noise of each index comes.
        start: first index.
        stop: one past the last.
        shape: of one sample.
        shares: how often each class comes among the labels, as ModelConfig.class_shares; () for none.
        grid: the times and the solver to integrate with, or a tolerance to meet.
        batch: samples in one network call; it changes the last bits of the data, so fix it.
        device: where to compute; the results are on the CPU.

    Returns:
        The fields for fewstep.shards.

    Raises:
        UserError: if the flow can't be followed so, or takes a noise out of the finite numbers; the
            message has the index, and the time.
    """

    def end(flow: Flow, noise: Tensor, conditions: dict[str, Tensor]) -> Tensor:
        return follow(flow, noise, grid, **conditions).x

    indices = range(start, stop)
    samples = draws("couple", seed, indices, shape=shape, shares=shares, batch=batch, device=device)
    made = followed(end, flow, samples, kind="pair", first=start)
    return join([{"noise": noise, "data": data, **conditions} for noise, conditions, data in made])


def join(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return the batches as one, on the CPU."""
    return {name: torch.cat([part[name].cpu() for part in parts]) for name in parts[0]}
