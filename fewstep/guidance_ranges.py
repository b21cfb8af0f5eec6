"""Ranges of guidance: the scales that a network is trained with which takes the scale as an input."""

from __future__ import annotations

import math
from collections.abc import Sequence

from fewstep.errors import UserError

Range = tuple[float, float]


def checked(numbers: Sequence[float]) -> Range:
    """Return a range, from 1, which is no guidance, so that any sampler may do without, up to its end.

    Raises:
        UserError: if it is none.
    """
    if len(numbers) != 2 or numbers[0] != 1 or not 1 < numbers[1] < math.inf:
        raise UserError(
            f"a range of guidance goes from 1, which is none, up to a larger scale, such as [1, 4]; got "
            f"{shown(numbers)}"
        )
    return float(numbers[0]), float(numbers[1])


def shown(scales: Sequence[float]) -> str:
    """Return scales as they are written in params.yaml."""
    return f"[{', '.join(f'{scale:g}' for scale in scales)}]"


def must_hold(known: Range, asked: float) -> None:
    """Refuse a scale outside of a range.

    Raises:
        UserError: naming both.
    """
    low, high = known
    if not low <= asked <= high:
        raise UserError(
            f"this model was trained with guidance from {low:g} to {high:g}; ask for one of these, not "
            f"{asked:g}"
        )
