"""Engine: how the networks of a training are computed; the environment says it, for only rounding changes."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from etils.epy import lazy_imports

from fewstep.errors import UserError

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
        sharded = _switch("FEWSTEP_SHARD") and distributed.ranks() > 1
        return cls(_micro_batch(), _switch("FEWSTEP_RECOMPUTE"), sharded)

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


def _micro_batch() -> int | None:
    text = os.environ.get("FEWSTEP_MICRO_BATCH")
    if text is None:
        return None
    if not (text.isdecimal() and int(text)):
        raise UserError(f"FEWSTEP_MICRO_BATCH must be a number of samples from 1, got {text!r}")
    return int(text)


def _switch(name: str) -> bool:
    """Return whether an environment variable is on; it is off unless it is set."""
    text = os.environ.get(name, "off")
    if text not in ("on", "off"):
        raise UserError(f"{name} must be on or off, got {text!r}")
    return text == "on"
