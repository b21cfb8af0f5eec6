"""Engine: how the networks of a training are computed; the environment says it, for only rounding changes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from etils.epy import lazy_imports

from fewstep import variables

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

with lazy_imports():
    from torch import nn as layers
    from torch.utils import checkpoint

    from fewstep import distributed
    from fewstep.training import sharding


@dataclass(frozen=True)
class Engine:
    """How the networks of a training are computed."""

    micro_batch: int | None = None
    """Samples that pass through the networks at a time in a process; None for its whole share of a batch."""
    recompute: bool = False
    """Whether the backward pass computes each block again instead of finding what the forward pass kept."""
    sharded: bool = False
    """Whether each process holds a part of the weights, and of all that belongs to them."""

    @classmethod
    def from_environment(cls) -> Engine:
        """Read FEWSTEP_MICRO_BATCH, FEWSTEP_RECOMPUTE and FEWSTEP_SHARD, which several processes can do.

        Raises:
            UserError: if one has an impossible value.
        """
        return cls(
            micro_batch=variables.count("FEWSTEP_MICRO_BATCH", "samples", default=None),
            recompute=variables.is_on("FEWSTEP_RECOMPUTE"),
            sharded=variables.is_on("FEWSTEP_SHARD") and distributed.ranks() > 1,
        )

    def prepare(self, network: nn.Module) -> None:
        """Have a network compute as asked; averages, of which no backward pass is made, are only sharded."""
        if self.recompute:
            for block in blocks(network):
                block.forward = partial(checkpoint.checkpoint, block.forward, use_reentrant=False)
        self.spread(network)

    def spread(self, network: nn.Module) -> None:
        """Leave each process its part of a network's weights, if that is asked."""
        if self.sharded:
            sharding.shard(network, list(blocks(network)))


def blocks(network: nn.Module) -> Iterator[nn.Module]:
    """Yield the parts that a network's lists of modules hold, without those inside of them."""
    for module in network.children():
        if isinstance(module, layers.ModuleList):
            yield from module
        elif isinstance(module, layers.ModuleDict):
            yield from module.values()
        else:
            yield from blocks(module)
