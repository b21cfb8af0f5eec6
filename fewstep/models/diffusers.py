"""Diffusers: a network class of the library diffusers, built by it from its own config."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from fewstep.conditions import NONE
from fewstep.lazy import lazy_imports

if TYPE_CHECKING:
    from torch import nn

    from fewstep.conditions import Shapes

with lazy_imports():
    from fewstep.foreign import library


@dataclass(frozen=True, kw_only=True)
class Diffusers:
    """Settings of a network of diffusers; fewstep.foreign.adapters lists the classes."""

    of_diffusers: ClassVar[bool] = True
    """Whether schedulers of diffusers may take its steps."""

    network: str
    """The class, such as UNet2DModel."""
    config: dict[str, Any] = field(default_factory=dict)
    """Its arguments, as in its config.json."""

    def build(
        self,
        shape: tuple[int, ...],
        classes: int,
        *,
        conditions: Shapes = NONE,
        guidance_input: bool = False,
        second_time: bool = False,
        slow_times: bool = False,
        time_scale: float = 1.0,
    ) -> nn.Module:
        """Return the network for images or latents of `shape` (channels, height, width).

        Raises:
            UserError: if there is no such class or argument, it needs what fewstep can't supply, or does not
                fit the shape, the classes, the conditions or guidance as an input, or embeds its time in a
                way to which no second time can be added.
        """
        return library.build(
            self.network,
            self.config,
            shape,
            classes,
            conditions,
            guidance_input,
            second_time=second_time,
            slow_times=slow_times,
            time_scale=time_scale,
        )
