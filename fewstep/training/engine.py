"""Engine: how the networks of a training are computed; the environment says it, for only rounding changes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from fewstep import variables
from fewstep.errors import UserError, first_line
from fewstep.lazy import lazy_imports

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor, nn

with lazy_imports():
    import torch
    from torch import nn as layers
    from torch.utils import checkpoint

    from fewstep import distributed
    from fewstep.training import sharding

VARIABLES = tuple(
    f"FEWSTEP_{name}" for name in ("MICRO_BATCH", "RECOMPUTE", "SHARD", "OFFLOAD", "COMPILE", "CHANNELS_LAST")
)
"""What `Engine.from_environment` reads."""
RECOMPILED = 64  # times that a function is compiled again for other shapes, before it is left as it is


@dataclass(frozen=True)
class Engine:
    """How the networks of a training are computed."""

    micro_batch: int | None = None
    """Samples that pass through the networks at a time in a process; None for its whole share of a batch."""
    recompute: bool = False
    """Whether the backward pass computes each block again instead of finding what the forward pass kept."""
    sharded: bool = False
    """Whether each process holds a part of the weights, and of all that belongs to them."""
    offloaded: bool = False
    """Whether these parts lie in the memory of the machine, not in that of the device."""
    compiled: bool = False
    """Whether each block is compiled."""
    channels_last: bool = False
    """Whether the weights of convolutions, and so images, have their channels last in memory."""

    @classmethod
    def from_environment(cls) -> Engine:
        """Read `VARIABLES`: FEWSTEP_MICRO_BATCH and switches.

        Raises:
            UserError: if one has an impossible value, or asks for what another is off for.
        """
        offloaded = variables.is_on("FEWSTEP_OFFLOAD")
        if offloaded and not variables.is_on("FEWSTEP_SHARD"):
            raise UserError("FEWSTEP_OFFLOAD moves weights that are shared out; set FEWSTEP_SHARD=on, too")
        return cls(
            micro_batch=variables.count("FEWSTEP_MICRO_BATCH", "samples", default=None),
            recompute=variables.is_on("FEWSTEP_RECOMPUTE"),
            sharded=variables.is_on("FEWSTEP_SHARD") and distributed.ranks() > 1,  # which only several can do
            offloaded=offloaded,
            compiled=variables.is_on("FEWSTEP_COMPILE"),
            channels_last=variables.is_on("FEWSTEP_CHANNELS_LAST"),
        )

    def usable(self, device: torch.device, say: Callable[[str], None]) -> Engine:
        """Return this engine without what can't be done here, which `say` prints."""
        if not (self.compiled and (why := compiler_fails(device))):
            return self
        say(f"FEWSTEP_COMPILE is on, but nothing can be compiled here ({why}); blocks stay as they are")
        return replace(self, compiled=False)

    def prepare(self, network: nn.Module) -> None:
        """Have a network compute as asked; averages, of which no backward pass is made, are only sharded."""
        if self.channels_last:
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if self.compiled:
            for block in blocks(network):
                block.forward = torch.compile(block.forward)
        if self.recompute:
            for block in blocks(network):
                block.forward = partial(checkpoint.checkpoint, block.forward, use_reentrant=False)
        self.spread(network)

    def spread(self, network: nn.Module) -> None:
        """Leave each process its part of a network's weights, if that is asked."""
        if self.sharded:
            sharding.shard(network, list(blocks(network)), offload=self.offloaded)


def compiler_fails(device: torch.device) -> str | None:
    """Return why nothing can be compiled for a device, None if it can; it takes some seconds."""
    torch._dynamo.config.recompile_limit = RECOMPILED  # blocks of one class and many shapes are one function
    try:
        torch.compile(_twice)(torch.ones(2, device=device))
    except Exception as error:
        return first_line(error)
    return None


def _twice(x: Tensor) -> Tensor:
    return 2 * x


def blocks(network: nn.Module) -> Iterator[nn.Module]:
    """Yield the parts that a network's lists of modules hold, without those inside of them."""
    for module in network.children():
        if isinstance(module, layers.ModuleList):
            yield from module
        elif isinstance(module, layers.ModuleDict):
            yield from module.values()
        else:
            yield from blocks(module)
