"""Dit: a transformer over patches, for images and latents (Peebles and Xie 2023, arXiv 2212.09748)."""

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
    from fewstep.networks import dit as networks


@dataclass(frozen=True, kw_only=True)
class Dit:
    """Settings of the diffusion transformer; DiT-S/2 has width 384, depth 12, heads 6 and patch 2.

    Raises:
        UserError: if a number is below 1, or the width is no multiple of the heads and of 4.
    """

    width: int = 64
    """Features of a token."""
    depth: int = 4
    """Blocks."""
    heads: int = 4
    """Heads of an attention."""
    patch: int = 2
    """Side of the square of pixels that is one token."""
    variance: bool = False
    """Whether it also makes a variance, which is not used; networks of DiT's and SiT's code do."""

    def __post_init__(self) -> None:
        must_be_positive("dit", width=self.width, depth=self.depth, heads=self.heads, patch=self.patch)
        if self.width % self.heads or self.width % 4:
            raise UserError(
                f"dit: the width must be a multiple of the heads, {self.heads}, and of 4, got {self.width}"
            )

    def check_split(self, split_after: int) -> None:
        """Refuse a split of the blocks between the two times of a step that can't be.

        Raises:
            UserError: if there are not so many blocks.
        """
        if not 1 <= split_after <= self.depth:
            raise UserError(
                f"dit: split_after {split_after} of {self.depth} blocks; set it from 1 to {self.depth}, "
                "after which the last layer alone sees the end of a step"
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
        split_after: int | None = None,
        time_scale: float = 1.0,
    ) -> nn.Module:
        """Return the network for images or latents of `shape` (channels, height, width).

        Its features of times from 0 to 1 are slow, whether or not slow_times asks for that.

        Raises:
            UserError: if the shape is not an image's, its sides are no multiples of the patch, the image of a
                condition has another size, or there are not so many blocks as split_after says.
        """
        if len(shape) != 3:
            raise UserError(f"dit needs images (channels, height, width), not {shape}; use mlp")
        if shape[1] % self.patch or shape[2] % self.patch:
            raise UserError(
                f"dit: {shape[1]}x{shape[2]} can't be cut into squares of {self.patch}; set patch to a "
                "divisor of both sides"
            )
        if split_after is not None:
            self.check_split(split_after)
        images_must_fit(conditions, shape, by="dit")
        return networks.DitNetwork(
            shape,
            classes,
            width=self.width,
            depth=self.depth,
            heads=self.heads,
            patch=self.patch,
            variance=self.variance,
            conditions=conditions,
            second_time=second_time,
            slow_times=slow_times,
            guidance_input=guidance_input,
            split_after=split_after,
            time_scale=time_scale,
        )
