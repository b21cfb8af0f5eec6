"""Survey: what must be known of all samples of a source, found in one pass, a piece at a time."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fewstep.lazy import lazy_imports
from fewstep.rows import Running

if TYPE_CHECKING:
    from torch import Tensor

with lazy_imports():
    import torch


@dataclass
class Bad:
    """Samples that can't be used."""

    count: int = 0
    first: int = 0
    """The number of the first of them."""

    def add(self, bad: Tensor, seen: int) -> None:
        """Count those of a piece, bool (m,), before which there were `seen` samples."""
        if bad.any():
            self.first = self.first if self.count else seen + int(bad.nonzero()[0])
            self.count += int(bad.sum())


@dataclass
class Survey:
    """What a pass over images or latents (n, C, H, W), or points (n, D), found."""

    latents: bool = False
    samples: int = 0
    not_finite: Bad = field(default_factory=Bad)
    flat: Bad = field(default_factory=Bad)
    """Images of one colour."""
    low: float = math.inf
    high: float = -math.inf
    points: Running = field(default_factory=Running)
    """Mean and scatter of each feature of points, or each channel of latents."""

    def add(self, part: Tensor) -> None:
        """Look at some more samples, (m, *shape)."""
        if part.is_floating_point():
            self.not_finite.add(~part.flatten(1).isfinite().all(1), self.samples)
        if part.dim() == 4 and not self.latents:
            pixels = part.flatten(2)
            self.flat.add((pixels.amax(2) == pixels.amin(2)).all(1), self.samples)
        else:
            self.points.add(part.movedim(1, -1).flatten(0, -2))
        low, high = torch.aminmax(part)
        self.low, self.high = min(self.low, float(low)), max(self.high, float(high))
        self.samples += len(part)


def survey_of(parts: Iterable[Tensor], *, latents: bool = False) -> Survey:
    """Return what all samples, (m, *shape) at a time, are like."""
    found = Survey(latents)
    for part in parts:
        found.add(part)
    return found
