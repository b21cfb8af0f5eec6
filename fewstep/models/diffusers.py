"""Diffusers: a network class of the library diffusers, built by it from its own config."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from fewstep.conditions import NONE
from fewstep.errors import UserError
from fewstep.lazy import lazy_imports

if TYPE_CHECKING:
    from torch import nn

    from fewstep.conditions import Shapes

with lazy_imports():
    from fewstep.foreign import library


SPLIT = {
    "DiTTransformer2DModel": {"num_layers": 28},
    "PixArtTransformer2DModel": {"num_layers": 28},
    "SD3Transformer2DModel": {"num_layers": 18},
    "FluxTransformer2DModel": {"num_layers": 19, "num_single_layers": 38},
}
"""What can be split, with the arguments that say how many blocks there are, and their defaults."""


@dataclass(frozen=True, kw_only=True)
class Diffusers:
    """Settings of a network of diffusers; fewstep.foreign.adapters lists the classes."""

    of_diffusers: ClassVar[bool] = True
    """Whether schedulers of diffusers may take its steps."""

    network: str
    """The class, such as UNet2DModel."""
    config: dict[str, Any] = field(default_factory=dict)
    """Its arguments, as in its config.json."""

    def check_split(self, split_after: int) -> None:
        """Refuse a split of the blocks between the two times of a step that can't be.

        Raises:
            UserError: if it is no such transformer, or has not so many blocks.
        """
        if self.network not in SPLIT:
            raise UserError(
                f"split_after is for {', '.join(SPLIT)}, and {self.network} is none of them: set it to null"
            )
        depth = sum(self.config.get(name, usual) for name, usual in SPLIT[self.network].items())
        if not 1 <= split_after <= depth:
            raise UserError(
                f"{self.network}: split_after {split_after} of {depth} blocks; set it from 1 to {depth}, "
                "after which the last layer alone sees the end of a step"
            )

    def build(
        self,
        shape: tuple[int, ...],
        classes: int,
        *,
        conditions: Shapes = NONE,
        guidance_input: bool = False,
        second_time: bool = False,
        slow_times: bool = False,
        split_after: int | None = None,
        time_scale: float = 1.0,
    ) -> nn.Module:
        """Return the network for images or latents of `shape` (channels, height, width).

        Raises:
            UserError: if there is no such class or argument, it needs what fewstep can't supply, or does not
                fit the shape, the classes, the conditions or guidance as an input, or embeds its time in a
                way to which no second time can be added, or can't be split.
        """
        if split_after is not None:
            self.check_split(split_after)
        return library.build(
            self.network,
            self.config,
            shape,
            classes,
            conditions,
            guidance_input,
            second_time=second_time,
            slow_times=slow_times,
            split_after=split_after,
            time_scale=time_scale,
        )
