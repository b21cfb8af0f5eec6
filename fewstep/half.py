"""Networks that are only sampled, in bfloat16, with half the bytes of weights; states stay as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from torch import Tensor


class Half(nn.Module):
    """A network with weights of bfloat16 that computes in it, where torch's autocast finds that safe."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        for weight in network.parameters():  # buffers, such as tables, stay exact
            weight.data = weight.data.to(torch.bfloat16)
        self.network = network

    def forward(self, x: Tensor, *inputs: Any, **conditions: Any) -> Tensor:
        """Return what the network makes of states x, (batch, *shape), and all else that it is given."""
        with torch.autocast(x.device.type, torch.bfloat16):
            return self.network(x, *inputs, **conditions)
