"""The units of the data, for models that learnt from standardised points."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from fewstep.lazy import lazy_imports

if TYPE_CHECKING:
    from torch import Tensor

with lazy_imports():
    import torch


def in_units(samples: Tensor, units: Mapping[str, tuple[float, ...]] | None) -> Tensor:
    """Return samples (n, *shape) in `units` of ModelConfig, float64 if these are not the model's own."""
    if units is None:
        return samples
    scale, offset = (torch.tensor(units[name], dtype=torch.float64) for name in ("scale", "offset"))
    return scale * samples.double() + offset
