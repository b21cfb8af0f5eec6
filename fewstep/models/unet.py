"""Unet: convolutions over a pyramid of resolutions, for images (Ronneberger et al. 2015)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fewstep.conditions import NONE, images_must_fit
from fewstep.errors import UserError
from fewstep.lazy import lazy_imports
from fewstep.models._numbers import must_be_positive

if TYPE_CHECKING:
    from torch import nn

    from fewstep.conditions import Shapes

with lazy_imports():
    from fewstep.networks import unet as networks


@dataclass(frozen=True, kw_only=True)
class Unet:
    """Settings of the U-Net; width 16 and multipliers (1, 2) suit 8x8 images on a CPU.

    Raises:
        UserError: if a number is below 1.
    """

    width: int = 16
    """Channels at full resolution."""
    multipliers: tuple[int, ...] = (1, 2)
    """Channels of each level as a multiple of the width; each further level halves the resolution."""
    blocks: int = 1
    """Residual blocks of each level, on the way down and again on the way up."""
    attention: bool = False
    """Whether pixels attend to each other at the lowest resolution."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "multipliers", tuple(self.multipliers))
        must_be_positive("unet", width=self.width, blocks=self.blocks)
        if not self.multipliers or min(self.multipliers) < 1:
            raise UserError(
                f"unet: multipliers must be one or more numbers from 1, got {list(self.multipliers)}"
            )

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
        """Return the network for images of `shape` (channels, height, width).

        Raises:
            UserError: if the shape is not an image's, or too small for that many levels, or the image of a
                condition has another size.
        """
        if len(shape) != 3:
            raise UserError(f"unet needs images (channels, height, width), not {shape}; use mlp")
        smallest = 2 ** len(self.multipliers)
        if min(shape[1:]) < smallest:
            raise UserError(
                f"unet: {len(self.multipliers)} multipliers need images of {smallest}x{smallest} or more, "
                f"got {shape[1]}x{shape[2]}; give fewer multipliers"
            )
        images_must_fit(conditions, shape, by="unet")
        return networks.UnetNetwork(
            shape[0],
            classes,
            width=self.width,
            multipliers=self.multipliers,
            blocks=self.blocks,
            attention=self.attention,
            conditions=conditions,
            second_time=second_time,
            slow_times=slow_times,
            guidance_input=guidance_input,
            time_scale=time_scale,
        )
