"""Imported: a network class of your own code in the checkout, named as module:Class."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fewstep import registry
from fewstep.conditions import NONE
from fewstep.errors import UserError
from fewstep.lazy import lazy_imports

if TYPE_CHECKING:
    from torch import nn

    from fewstep.conditions import Shapes

with lazy_imports():
    from fewstep.foreign import own_code


@dataclass(frozen=True, kw_only=True)
class Imported:
    """Settings of a network of your own.

    Raises:
        UserError: if `network` is not of the form module:Class, or there is no such adapter.
    """

    network: str
    """module:Class of a file below the working directory: networks.unet:Unet is class Unet of
    networks/unet.py."""
    options: dict[str, Any] = field(default_factory=dict)
    """The arguments of the class."""
    adapter: str = "x_t"
    """How it is called, a file of fewstep.foreign.adapters: x_t, t_x or edm."""

    def __post_init__(self) -> None:
        module, _, name = self.network.partition(":")
        if not name.isidentifier() or not all(part.isidentifier() for part in module.split(".")):
            raise UserError(f"network {self.network!r} must be module:Class, such as networks.unet:Unet")
        known = registry.available("fewstep.foreign.adapters")
        if self.adapter not in known:
            raise UserError(registry.unknown("adapter", self.adapter, known))

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
        """Return the network, in its adapter.

        Your class makes a network with a second time itself, if it is given second_time=True beside its
        options, from weights of the same names and others that add nothing at first; the same for
        slow_times.

        Raises:
            UserError: if there is no such file or class, it is no torch module, or takes no such arguments
                or conditions.
        """
        named = (*conditions, *(("guidance",) if guidance_input else ()))
        timing = {"second_time": second_time, "slow_times": slow_times}
        return own_code.build(self.network, self.options, self.adapter, classes, named, **timing)
