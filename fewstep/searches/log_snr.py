"""LogSnr: equal steps in the logarithm of the signal-to-noise ratio, as DPM-Solver samples."""

from __future__ import annotations

from dataclasses import dataclass

from fewstep import spacings
from fewstep.searching.closed_form import Levels


@dataclass(frozen=True, kw_only=True)
class LogSnr(Levels):
    """Lu et al. 2022 (arXiv 2206.00927)."""

    def times(self, steps: int, start: float, end: float) -> tuple[float, ...]:
        """See ClosedForm.times."""
        levels = {"sigma_min": self.sigma_min, "sigma_max": self.sigma_max}
        return spacings.log_snr(steps, start=start, end=end, **levels)
