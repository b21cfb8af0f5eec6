"""What a network here is given beside its sample and the time: vectors, sequences and images with a name."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from fewstep.conditions import MASK, Shapes, is_mask

PREFIX = "of_"  # of the names of layers, which must not be those of a module's own attributes


class Embedded(nn.Module):
    """The sum of an embedding (batch, width) of each vector and each sequence.

    A vector goes through two layers. Of a sequence each token does, and the mean of those that count is taken
    (Zaheer et al. 2017, arXiv 1703.06114, eq. 2), so the order of tokens must be in them.
    """

    def __init__(self, shapes: Shapes, width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleDict(
            {
                PREFIX + name: nn.Sequential(nn.Linear(shape[-1], width), nn.SiLU(), nn.Linear(width, width))
                for name, shape in shapes.items()
                if len(shape) < 3 and not is_mask(name, shapes)
            }
        )

    def forward(self, conditions: Mapping[str, Tensor]) -> Tensor:
        """Return the embedding of one or more conditions, each (batch, *shape)."""
        means = [
            self._mean(layers(conditions[name]), conditions.get(name + MASK))
            for name, layers in ((key.removeprefix(PREFIX), layers) for key, layers in self.layers.items())
        ]
        return torch.stack(means).sum(dim=0)

    def _mean(self, embedded: Tensor, mask: Tensor | None) -> Tensor:
        """Return the mean (batch, width) of the tokens (batch, tokens, width); a vector is itself."""
        if embedded.dim() == 2:
            return embedded
        if mask is None:
            return embedded.mean(dim=1)
        counts = mask[:, :, None].to(embedded.dtype)
        return (counts * embedded).sum(dim=1) / counts.sum(dim=1).clamp(min=1)


def beside(x: Tensor, conditions: Mapping[str, Tensor], names: Iterable[str]) -> list[Tensor]:
    """Return the sample and the images with these names, each (batch, ...), in the type of the sample."""
    return [x, *(conditions[name].to(x.dtype) for name in names)]
