"""Pairs: noise, and the data that a flow carries it to; Liu et al. 2022 (arXiv 2209.03003), section 2."""

import torch
from torch import Tensor

from fewstep import randomness
from fewstep.conditions import Conditions
from fewstep.draws import draws
from fewstep.flow import Flow, noise_of
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
    conditions: Conditions,
    grid: Grid | Adaptive,
    batch: int,
    device: torch.device | str = "cpu",
) -> dict[str, Tensor]:
    """Return the pairs start <= index < stop: "noise" and "data", (n, *shape).

    Beside them "label", "row" or both, (n,), as the conditions have them.

    Args:
        flow: the teacher, its network in eval mode on `device`.
        seed: of the stream "couple", from which the noise of each index comes.
        start: first index.
        stop: one past the last.
        shape: of one sample.
        conditions: which those of an index are; `conditions` of the model.
        grid: the times and the solver to integrate with, or a tolerance to meet.
        batch: samples in one network call; it changes the last bits of the data, so fix it.
        device: where to compute; the results are on the CPU.

    Returns:
        The fields for fewstep.shards.

    Raises:
        UserError: if the flow can't be followed so, or takes a noise out of the finite numbers; the
            message has the index, and the time.
    """

    def end(flow: Flow, noise: Tensor, given: dict[str, Tensor]) -> Tensor:
        return follow(flow, noise, grid, **given).x

    indices = range(start, stop)
    samples = draws(
        "couple",
        seed,
        indices,
        shape=shape,
        law=noise_of(flow),
        conditions=conditions,
        batch=batch,
        device=device,
    )
    made = followed(end, flow, samples, kind="pair", first=start)
    pairs = join([{"noise": noise, "data": data} for noise, _, data in made])
    return pairs | conditions.chosen("couple", randomness.keys_of(seed, start, stop))


def join(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return the batches as one, on the CPU."""
    return {name: torch.cat([part[name].cpu() for part in parts]) for name in parts[0]}
