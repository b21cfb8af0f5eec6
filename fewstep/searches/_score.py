"""Is a found grid better than equal steps? Ask both, from fresh noise, how far they land from the truth.

The truth is a fine Heun run from the same noise, so no data is needed and the difference is paired:
its standard error says whether a gain is more than luck.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from fewstep import grids
from fewstep.draws import draws
from fewstep.errors import UserError
from fewstep.flow import Flow
from fewstep.grids import Grid
from fewstep.progress import SILENT, Progress
from fewstep.solvers import integrate

FRESH = 1 << 32  # first index of the noise that no search has seen


@dataclass(frozen=True)
class Score:
    """Endpoint errors of a found grid and of equal steps; root mean squares over dimensions."""

    found: float
    """Error of the found grid, the mean square taken over noises too."""
    uniform: float
    """The same of as many equal steps by the same solver."""
    mean_gain: float
    """Mean over noises of one noise's error with equal steps less its error with the found grid."""
    median_gain: float
    """Median of the same difference."""
    standard_error: float
    """Standard error of mean_gain."""


@torch.no_grad()
def score(
    flow: Flow,
    found: dict[int, Grid],
    *,
    seed: int,
    shape: tuple[int, ...],
    classes: int,
    batch: int,
    noises: int = 256,
    fine_steps: int = 64,
    device: str = "cpu",
    progress: Progress = SILENT,
) -> dict[int, Score]:
    """Compare each grid of `found` with equal steps.

    Args:
        flow: The flow the grids were found for.
        found: A grid by budget, as SearchResult.grids has it.
        seed: Names the noise, as in a search; the indices are others.
        shape: Shape of one sample.
        classes: Number of class labels; noise number i gets label i % classes. 0 for none.
        batch: Noises in one network call.
        noises: Fresh noises to compare on.
        fine_steps: Equal Heun steps of the reference.
        device: Where the flow runs.
        progress: Told of the noises done.

    Returns:
        The score of each grid, by budget.

    Raises:
        UserError: if there are fewer than two noises, for which no standard error exists.
    """
    if noises < 2:
        raise UserError(f"scoring grids needs two or more noises, got {noises}")
    fine = grids.uniform(fine_steps, start=flow.t_start, solver="heun")
    uniform = {b: grids.uniform(g.steps, start=flow.t_start, solver=g.solver) for b, g in found.items()}
    squares: dict[int, list[Tensor]] = {budget: [] for budget in found}  # each (2, n): found, uniform
    fresh = range(FRESH, FRESH + noises)
    progress.start("score", noises, unit="noise")
    samples = draws("search", seed, fresh, shape=shape, classes=classes, batch=batch, device=device)
    for noise, conditions in samples:
        truth = integrate(flow, noise, fine, **conditions).x
        for budget in found:
            ends = [integrate(flow, noise, g, **conditions).x for g in (found[budget], uniform[budget])]
            squares[budget].append(torch.stack([_mean_square(end - truth) for end in ends]).cpu())
        progress.advance(len(noise))
    return {budget: _compare(torch.cat(parts, dim=1)) for budget, parts in squares.items()}


def _mean_square(x: Tensor) -> Tensor:
    return x.flatten(1).double().square().mean(dim=1)


def _compare(squares: Tensor) -> Score:
    found, uniform = squares.mean(dim=1).sqrt().tolist()
    gain = squares[1].sqrt() - squares[0].sqrt()
    error = gain.std() / len(gain) ** 0.5
    return Score(found, uniform, gain.mean().item(), gain.median().item(), error.item())
