"""Uniform: equal steps in canonical time, the grid that every other one should beat."""

from __future__ import annotations

from dataclasses import dataclass

from fewstep import spacings
from fewstep.searching.closed_form import ClosedForm


@dataclass(frozen=True, kw_only=True)
class Uniform(ClosedForm):
    """Equal steps."""

    def times(self, steps: int, start: float, end: float) -> tuple[float, ...]:
        """See ClosedForm.times."""
        return spacings.uniform(steps, start=start, end=end)
