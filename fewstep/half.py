"""Networks that are not trained, in bfloat16: half the bytes of weights; states stay as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor


def halve(weights: Iterable[nn.Parameter]) -> None:
    """Hold weights in bfloat16 from now on; buffers, such as tables, are none and stay exact."""
    for weight in weights:
        weight.data = weight.data.to(torch.bfloat16)


class Half(nn.Module):
    """A network with weights of bfloat16 that computes in it, where torch's autocast finds that safe."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        halve(network.parameters())
        self.network = network

    def forward(self, x: Tensor, *inputs: Any, **conditions: Any) -> Tensor:
        """Return what the network makes of states x, (batch, *shape), and all else that it is given."""
        with torch.autocast(x.device.type, torch.bfloat16):
            return self.network(x, *inputs, **conditions)
