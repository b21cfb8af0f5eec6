"""Independent: the noise as it was drawn; every data point meets every noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Independent:
    """Noise and data independent of each other. It has no options."""

    suits_labels: ClassVar[bool] = True

    def pair(self, noise: Tensor, data: Tensor) -> Tensor:
        """See Coupling.pair."""
        return noise
