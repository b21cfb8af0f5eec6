"""Edm: equal steps in a power of the noise level, as EDM samples."""

from __future__ import annotations

from dataclasses import dataclass

from fewstep import spacings
from fewstep.errors import UserError
from fewstep.searching.closed_form import Levels


@dataclass(frozen=True, kw_only=True)
class Edm(Levels):
    """Karras et al. 2022 (arXiv 2206.00364), eq. 5; very coarse in the middle at few steps.

    Raises:
        UserError: if an option is out of range.
    """

    rho: float = 7.0
    """The power; 1 spaces levels evenly, larger ones crowd the timesteps towards data."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.rho < float("inf"):
            raise UserError(f"rho must be a positive number, got {self.rho}")

    def times(self, steps: int, start: float, end: float) -> tuple[float, ...]:
        """See ClosedForm.times."""
        levels = {"sigma_min": self.sigma_min, "sigma_max": self.sigma_max}
        return spacings.edm(steps, start=start, end=end, rho=self.rho, **levels)
