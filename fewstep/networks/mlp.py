"""The network that `fewstep.models.mlp` describes."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fewstep.conditions import Shapes, images
from fewstep.networks.embedding import Condition, zero
from fewstep.networks.given import beside


class Block(nn.Module):
    """Two layers beside a skip; the condition scales and shifts their input.

    Adaptive layer norm as in Peebles and Xie 2023 (arXiv 2212.09748); it starts as the skip alone.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.condition = nn.LayerNorm(width), nn.Linear(width, 2 * width)
        self.first, self.second = nn.Linear(width, width), nn.Linear(width, width)
        zero(self.second)

    def forward(self, h: Tensor, condition: Tensor) -> Tensor:
        """Return (batch, width)."""
        scale, shift = self.condition(condition).chunk(2, dim=1)
        return h + self.second(functional.silu(self.first(torch.addcmul(shift, self.norm(h), 1 + scale))))


class MlpNetwork(nn.Module):
    """Residual fully connected layers; the last starts at zero."""

    def __init__(
        self,
        shape: tuple[int, ...],
        classes: int,
        *,
        width: int,
        depth: int,
        conditions: Shapes,
        **more: Any,
    ) -> None:
        super().__init__()
        size, self.images = math.prod(shape), images(conditions)
        self.condition = Condition(width, width, classes, conditions=conditions, **more)
        self.first = nn.Linear(size + sum(map(math.prod, self.images.values())), width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(depth))
        self.features_at = f"blocks.{depth - 1}"
        self.norm, self.last = nn.LayerNorm(width), nn.Linear(width, size)
        zero(self.last)

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        label: Tensor | None = None,
        until: Tensor | None = None,
        **others: Tensor,
    ) -> Tensor:
        """Return the output, (batch, *shape), at t (batch,) for label, until (batch,), others (n, ...)."""
        condition = functional.silu(self.condition(t, label, until, others))
        seen = [values.flatten(1) for values in beside(x, others, self.images)]
        h = self.first(torch.cat(seen, dim=1))
        for block in self.blocks:
            h = block(h, condition)
        return self.last(self.norm(h)).reshape(x.shape)
