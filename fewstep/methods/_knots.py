"""What methods share that train a student only at the knots of its own grid."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fewstep.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from fewstep.model import Model


def knots_of(student: Model) -> tuple[float, ...]:
    """Return the times, steps + 1 of them, of the student's grid.

    Raises:
        UserError: if it has no grid, or one that it would not sample with the way it is trained:
            by Euler steps and without guidance (what guidance does is in the teacher's samples).
    """
    grid = student.config.grid
    if grid is None:
        raise UserError("this method trains at the knots of the student's grid, and the student has no grid")
    if grid.solver != "euler" or grid.guidance != 1:
        raise UserError(
            "this method trains a student that samples by Euler steps with guidance 1; "
            f"its grid says {grid.solver} with guidance {grid.guidance}"
        )
    return grid.times


def draw_knots(steps: int, keys: Tensor) -> Tensor:
    """Return one of the knots 0 ... steps - 1 for each sample, int64 (n,)."""
    from fewstep import randomness

    return (randomness.uniforms("train.knot", keys) * steps).long()
