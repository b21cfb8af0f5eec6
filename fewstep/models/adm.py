"""Adm: the U-Net of guided diffusion and torchcfm (Dhariwal and Nichol 2021, arXiv 2105.05233)."""

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
    from fewstep.networks import adm as networks

GROUPS = 32
"""Of each norm, so all channels are multiples of it."""


@dataclass(frozen=True, kw_only=True)
class Adm:
    """Settings of the U-Net; that of torchcfm's example on CIFAR-10 has width 128, multipliers 1, 2, 2, 2,
    2 blocks, attention at level 1, and heads of 64 channels.

    Raises:
        UserError: if a number is below 1, the channels of a level are no multiple of 32 and of its heads, or
            no more than 32 where the condition is added, or there is no such level.
    """

    width: int = 32
    """Features of a time, of which the multipliers are multiples."""
    multipliers: tuple[float, ...] = (1, 2)
    """Channels of each level as a multiple of the width; each further level halves the resolution."""
    blocks: int = 1
    """Residual blocks of each level on the way down; there is one more on the way up."""
    attention: tuple[int, ...] = ()
    """Levels at which pixels attend to each other, from 0, the full resolution; the middle always does."""
    heads: int = 1
    """Heads of an attention, if head_channels is null."""
    head_channels: int | None = None
    """Channels of a head, of which there are as many as fit; null: as heads says."""
    heads_first: bool = True
    """Whether an attention's weights are sorted by heads before queries, keys and values: the older order."""
    scale_shift: bool = False
    """Whether the condition scales and shifts what lies between two convolutions; else it is added."""
    resample_blocks: bool = False
    """Whether residual blocks change the resolution; else single convolutions do."""
    variance: bool = False
    """Whether it also makes a variance, which is not used."""
    labels: int | None = None
    """Rows of its table of labels; null: one more than classes, for the null condition, which is the last."""

    def __post_init__(self) -> None:
        per_head = 1 if self.head_channels is None else self.head_channels
        must_be_positive(
            "adm", width=self.width, blocks=self.blocks, heads=self.heads, head_channels=per_head
        )
        if not self.multipliers or min(self.channels) < 1:
            raise UserError(
                "adm: multipliers must be one or more numbers above 0, of which each gives a level its "
                f"channels, got {list(self.multipliers)}"
            )
        for channels in {self.width, *self.channels}:
            if channels % GROUPS:
                raise UserError(f"adm: width and channels must be multiples of {GROUPS}, got {channels}")
        if max(self.channels) == GROUPS and not self.scale_shift:
            raise UserError(
                f"adm: at least one level must have more than {GROUPS} channels, or norms take away what "
                "time and conditions add; raise a multiplier or the width, or set scale_shift: true"
            )
        if wrong := set(self.attention) - set(range(len(self.multipliers))):
            raise UserError(
                f"adm: attention at level {min(wrong)}; there are levels 0 to {len(self.multipliers) - 1}"
            )
        for level in {*self.attention, len(self.multipliers) - 1}:
            if (channels := self.channels[level]) % (self.head_channels or self.heads):
                raise UserError(
                    f"adm: {channels} channels can't be parted by "
                    f"{'head_channels' if self.head_channels else 'heads'}, "
                    f"{self.head_channels or self.heads}; take a divisor"
                )

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of each level."""
        return tuple(round(self.width * multiplier) for multiplier in self.multipliers)

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

        Its features of times from 0 to 1 are slow, whether or not slow_times asks for that.

        Raises:
            UserError: if the shape is not an image's, its sides can't be halved for each level, the table of
                labels has no row for each class, or the image of a condition has another size.
        """
        if len(shape) != 3:
            raise UserError(f"adm needs images (channels, height, width), not {shape}; use mlp")
        parts = 2 ** (len(self.multipliers) - 1)
        if shape[1] % parts or shape[2] % parts:
            raise UserError(
                f"adm: the sides of {shape[1]}x{shape[2]} must be multiples of {parts}, with "
                f"{len(self.multipliers)} levels; take fewer multipliers"
            )
        labels = (classes + 1 if classes else 0) if self.labels is None else self.labels
        if labels not in ({classes, classes + 1} if classes else {0}):
            raise UserError(
                f"adm: the table of labels has {labels} rows, and there are {classes} classes; it has a row "
                "for each, and one more if there is a null condition"
            )
        images_must_fit(conditions, shape, by="adm")
        return networks.AdmNetwork(
            shape[0],
            labels,
            null=classes if labels > classes else None,
            width=self.width,
            levels=self.channels,
            blocks=self.blocks,
            attention=self.attention,
            heads=self.heads,
            head_channels=self.head_channels,
            heads_first=self.heads_first,
            scale_shift=self.scale_shift,
            resample_blocks=self.resample_blocks,
            variance=self.variance,
            conditions=conditions,
            second_time=second_time,
            slow_times=slow_times,
            guidance_input=guidance_input,
            time_scale=time_scale,
        )
