"""Feature distance: between samples as a net sees them, by methods whose loss is not of numbers alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fewstep.errors import UserError
from fewstep.flow import as_state
from fewstep.lazy import lazy_imports
from fewstep.training.distances import l2
from fewstep.training.method import Net

if TYPE_CHECKING:
    from torch import Tensor

with lazy_imports():
    import torch


FEATURE_NETS = ("monitor", "efficientnet_lite0")


def check_features(weight: float, net: str) -> None:
    """Check the weight of a feature distance, and the net whose features it compares.

    Raises:
        UserError: if it can be none, or there is no such net for losses.
    """
    if not 0 <= weight < math.inf:
        raise UserError(f"feature_weight must be a weight from 0, got {weight}")
    if net not in FEATURE_NETS:
        raise UserError(
            f"feature_net {net!r} is no net for losses, which never see those that measure results; choose "
            f"from: {', '.join(FEATURE_NETS)}"
        )


def loaded_features(load: Callable[[str], Any]) -> dict[str, Net]:
    """Return the net by whose features samples are compared, as one of a method's networks."""
    return {"features": Net(load("features"), trains=False, halves=False)}


def feature_distance(net: Callable[[Tensor], Tensor], made: Tensor, data: Tensor) -> Tensor:
    """Return the mean squared difference in features, (n,), of samples and data, both (n, *shape).

    It is outside autocast: the difference of like features in bfloat16 is mostly their rounding.
    """
    with torch.autocast(made.device.type, enabled=False):
        return l2(net(as_state(made)) - net(as_state(data)))
