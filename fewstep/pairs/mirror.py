"""Mirrored pairs: twice as many for the price of one, if the teacher's flow can't tell left from right."""

import torch
from torch import Tensor

from fewstep import randomness
from fewstep.errors import UserError
from fewstep.flow import Flow
from fewstep.grids import Grid
from fewstep.paths import like
from fewstep.solvers import integrate
from fewstep.training.method import Batch

MIRROR_LIMIT = 0.1  # of the distance between two samples; 1 % of its square
MIRRORED = ("noise", "data", "states")  # the fields of pairs and trajectories that are images


@torch.no_grad()
def mirror_error(flow: Flow, noise: Tensor, grid: Grid, **conditions: Tensor) -> float:
    """Return how far the end of mirrored noise is from the mirrored end, over the distance of two ends.

    It is 0 for a flow that is equivariant: the mirror image of each of its pairs is one, too. Distances
    are root mean squares; the last axis is mirrored.

    Args:
        flow: the teacher.
        noise: (n, channels, height, width), 2 or more.
        grid: how its pairs are made.
        **conditions: what the flow is conditioned on, each (n, ...).

    Raises:
        UserError: if the noise is not that of images.
    """
    if noise.dim() != 4:
        raise UserError(f"only images can be mirrored, not samples of shape {tuple(noise.shape[1:])}")
    end = integrate(flow, noise, grid, **conditions).x.double()
    mirrored = integrate(flow, noise.flip(-1), grid, **conditions).x.double()
    off, strange = ((end - other).square().mean().sqrt() for other in (mirrored.flip(-1), end.roll(1, 0)))
    return float(off / strange)


def require_equivariant(
    flow: Flow, noise: Tensor, grid: Grid, *, setting: str, **conditions: Tensor
) -> float:
    """Return the `mirror_error` of a teacher whose pairs may be mirrored.

    Args:
        flow: see mirror_error, as for the others.
        noise: some dozens are enough.
        grid: as above.
        setting: what asked for mirrored pairs, such as couple.round1.mirror.
        **conditions: as above.

    Raises:
        UserError: if they may not, or are no images.
    """
    error = mirror_error(flow, noise, grid, **conditions)
    if not error < MIRROR_LIMIT:
        raise UserError(
            f"{setting} needs an equivariant teacher: the mirror image of what this one makes of noise, and "
            f"what it makes of mirrored noise, differ by {error:.2f} of the distance between two samples "
            f"(allowed: {MIRROR_LIMIT}); set {setting} to false"
        )
    return error


def mirror_half(batch: Batch, keys: Tensor) -> Batch:
    """Return pairs or trajectories of which half are mirrored: those that the keys, (n, 2), choose."""
    chosen = randomness.uniforms("mirror", keys) < 0.5
    return {
        name: torch.where(like(chosen, field), field.flip(-1), field) if name in MIRRORED else field
        for name, field in batch.items()
    }
