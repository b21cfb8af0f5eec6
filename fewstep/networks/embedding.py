"""What every network here is conditioned on: the time, and a class label if there are classes."""

import math

import torch
from torch import Tensor, nn

from fewstep.errors import UserError

FASTEST = 1000.0  # radians per unit of time; the slowest feature turns by one radian


class Condition(nn.Module):
    """An embedding (batch, width) of the time, and of the label where there are classes.

    Sines and cosines of geometrically spaced frequencies, then two layers; Vaswani et al. 2017,
    Ho et al. 2020 (arXiv 2006.11239), appendix B. Label number `classes` is the null condition.
    """

    frequencies: Tensor

    def __init__(self, features: int, width: int, classes: int) -> None:
        super().__init__()
        frequencies = torch.exp(torch.linspace(0, math.log(FASTEST), features // 2))
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.time = nn.Sequential(nn.Linear(2 * (features // 2), width), nn.SiLU(), nn.Linear(width, width))
        self.label = nn.Embedding(classes + 1, width) if classes else None
        self.classes = classes

    def forward(self, t: Tensor, label: Tensor | None) -> Tensor:
        """Return the embedding, (batch, width), of t and label, (batch,); no label is the null label.

        Raises:
            UserError: if there is a label but the network has no classes.
        """
        angle = t[:, None] * self.frequencies
        waves = torch.cat([angle.sin(), angle.cos()], dim=1)  # of times in float32, whatever the weights are
        embedding = self.time(waves.to(self.frequencies.dtype))
        if self.label is None:
            if label is not None:
                raise UserError("a label was given to a network without classes")
            return embedding
        if label is None:
            label = torch.full(t.shape, self.classes, device=t.device)
        return embedding + self.label(label)


def zero(layer: nn.Module) -> None:
    """Set a layer's weights to zero, so that what it adds starts as nothing."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
