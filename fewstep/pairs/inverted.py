"""Inverted pairs: real data, and the noise that a flow takes to it; Lee et al. 2024 (arXiv 2405.20320)."""

from collections.abc import Iterator

import torch
from torch import Tensor

from fewstep.flow import Flow
from fewstep.grids import Grid
from fewstep.pairs._followed import followed
from fewstep.pairs.backwards import integrate_back
from fewstep.pairs.pairs import join


@torch.no_grad()
def invert_pairs(
    flow: Flow, samples: dict[str, Tensor], grid: Grid, *, batch: int, device: torch.device | str = "cpu"
) -> dict[str, Tensor]:
    """Return the pairs of real samples: "noise", "data", (n, *shape), and their conditions, each (n, ...).

    Only a flow whose samples have the law of the data gives noise that is standard normal: check it.

    Args:
        flow: the teacher, its network in eval mode on `device`.
        samples: "data", and what the flow is conditioned on.
        grid: the times and the solver, from noise to data; they are visited in reverse.
        batch: samples in one network call; it changes the last bits of the noise, so fix it.
        device: where to compute; the results are on the CPU.

    Raises:
        UserError: if the flow takes a sample out of the finite numbers, and the message has its place; or if
            it has no velocity at each time.
    """

    def parts() -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        for start in range(0, len(samples["data"]), batch):
            part = {name: field[start : start + batch].to(device) for name, field in samples.items()}
            yield part.pop("data"), part

    def noise(flow: Flow, data: Tensor, conditions: dict[str, Tensor]) -> Tensor:
        return integrate_back(flow, data, grid, **conditions)

    made = followed(noise, flow, parts(), kind="inverted sample", first=0)
    return join([{"noise": noise, "data": data, **conditions} for data, conditions, noise in made])
