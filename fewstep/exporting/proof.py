"""Whether an exported sampler makes the samples that fewstep makes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fewstep import solvers
from fewstep.exporting.sampler import ExportedSampler
from fewstep.units import in_units

BATCHES = (1, 3, 8)
"""Sizes of the batches that are compared."""
LIMIT = 1e-4
"""The largest relative difference that rounding in float32 explains."""


@dataclass(frozen=True)
class Proof:
    """What was found of an exported sampler."""

    difference: float
    """The largest difference of its samples to those of fewstep, relative to their size."""
    nfe: int
    """Network calls a sample."""


def difference(sampler: ExportedSampler, exported: Callable[[dict[str, Tensor]], Tensor]) -> Proof:
    """Return the largest relative difference of an exported sampler's samples.

    fewstep's side is `solvers.integrate`. Both sides get the same noise, in batches of each of `BATCHES`. A
    difference is relative to the root mean square of the batch's samples, in units of the model.

    Raises:
        NotFiniteError: fewstep's own samples are not finite.
    """
    largest, nfe = 0.0, 0
    units = sampler.model.config.units
    scale = torch.tensor(units["scale"], dtype=torch.float64) if units else torch.ones(())
    for batch in BATCHES:
        inputs = sampler.inputs(batch)
        conditions = {name: value for name, value in inputs.items() if name != "noise"}
        with torch.no_grad():
            solution = solvers.integrate(sampler.flow, inputs["noise"], sampler.grid, **conditions)
            theirs = exported(inputs)
        ours, nfe = in_units(solution.x, units), solution.nfe
        if theirs.shape != ours.shape or theirs.dtype != ours.dtype or not theirs.isfinite().all():
            return Proof(float("inf"), nfe)
        size = solution.x.square().mean().sqrt().clamp(min=torch.finfo(torch.float32).tiny)
        largest = max(largest, float(((theirs - ours) / scale).abs().max() / size))
    return Proof(largest, nfe)
