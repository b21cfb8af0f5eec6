"""Mlp: residual fully connected layers, for points, vectors and very small images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fewstep.conditions import NONE
from fewstep.lazy import lazy_imports
from fewstep.models._numbers import must_be_positive

if TYPE_CHECKING:
    from torch import nn

    from fewstep.conditions import Shapes

with lazy_imports():
    from fewstep.networks import mlp as networks


@dataclass(frozen=True, kw_only=True)
class Mlp:
    """Settings of the fully connected network.

    Raises:
        UserError: if a number is below 1.
    """

    width: int = 128
    """Features of every layer."""
    depth: int = 3
    """Residual blocks."""

    def __post_init__(self) -> None:
        must_be_positive("mlp", width=self.width, depth=self.depth)

    def build(
        self,
        shape: tuple[int, ...],
        classes: int,
        *,
        conditions: Shapes = NONE,
        second_time: bool = False,
        slow_times: bool = False,
        guidance_input: bool = False,
        time_scale: float = 1.0,
    ) -> nn.Module:
        """Return the network for samples of any `shape`; images, also of conditions, are flattened."""
        return networks.MlpNetwork(
            shape,
            classes,
            width=self.width,
            depth=self.depth,
            conditions=conditions,
            second_time=second_time,
            slow_times=slow_times,
            guidance_input=guidance_input,
            time_scale=time_scale,
        )
