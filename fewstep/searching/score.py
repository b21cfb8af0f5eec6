"""What found grids are worth: how far they end from the truth, on noise that nothing was chosen by.

Errors of all grids are of the same noises, so a difference is not one of luck; a few noises that change
their mode dominate a mean, so medians stand beside it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist

from torch import Tensor

from fewstep.errors import UserError
from fewstep.grids import Grid
from fewstep.searching.ends import baseline, endpoint_squares
from fewstep.searching.problem import Problem

CONFIDENCE = 0.95  # of intervals


@dataclass(frozen=True)
class Score:
    """Endpoint errors of one grid, and how they compare with those of equal steps or a student's own grid."""

    rmse: float
    """Root of the mean, over noises and dimensions, of the squared distance from the truth."""
    rmse_low: float
    """Lower end of its 95 % interval."""
    rmse_high: float
    """Upper end."""
    median: float
    """Median over noises of one noise's error, the root of its mean square."""
    difference: float
    """Mean over noises of the squared error less that of the baseline; below 0 is better."""
    standard_error: float
    """Of the difference, which is paired."""
    median_difference: float
    """Median over noises of one noise's error less its error with the baseline."""


def score(
    problem: Problem, found: Mapping[int, Mapping[str, Grid]], *, noises: int
) -> dict[int, dict[str, Score]]:
    """Return the score of every grid in `found` and of the baseline, by budget and name.

    Args:
        problem: Its flow and noise of the role "report" are used.
        found: Grids by budget and name.
        noises: How many to score on.

    Raises:
        UserError: if there are fewer than two noises, for which no standard error exists.
    """
    if noises < 2:
        raise UserError(f"scoring grids needs two or more noises, got {noises}")
    scores = {}
    for budget, named in found.items():
        base, grid = baseline(problem, budget)
        asked = {base: grid, **named}
        squares = endpoint_squares(
            problem, list(asked.values()), "report", noises, label=f"scores at {budget} steps"
        )
        beside = squares[list(asked).index(base)]
        scores[budget] = {name: compare(own, beside) for name, own in zip(asked, squares, strict=True)}
    return scores


def compare(squares: Tensor, baseline: Tensor) -> Score:
    """Return the score of a grid from its squared errors and the baseline's, (noises,) each."""
    mean, error = mean_and_error(squares)
    reach = NormalDist().inv_cdf((1 + CONFIDENCE) / 2) * error
    difference, its_error = mean_and_error(squares - baseline)
    return Score(
        rmse=mean**0.5,
        rmse_low=max(mean - reach, 0.0) ** 0.5,
        rmse_high=(mean + reach) ** 0.5,
        median=float(squares.sqrt().median()),
        difference=difference,
        standard_error=its_error,
        median_difference=float((squares.sqrt() - baseline.sqrt()).median()),
    )


def mean_and_error(values: Tensor) -> tuple[float, float]:
    """Return the mean of (n,) values and its standard error."""
    return float(values.mean()), float(values.std() / len(values) ** 0.5)
