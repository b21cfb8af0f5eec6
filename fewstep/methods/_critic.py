"""critic: a small network that discriminates between two kinds of samples."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from etils.epy import lazy_imports

if TYPE_CHECKING:
    from torch import nn

with lazy_imports():
    from torch import nn
    from torch.nn.utils import parametrizations


WIDTH, SLOPE = 64, 0.2


def critic(shape: tuple[int, ...]) -> nn.Module:
    """Return a network from samples (n, *shape) to one number each, (n,).

    For images it is convolutional, with the last features averaged over the image; otherwise it is fully
    connected. Every layer has spectral norm 1 (Miyato et al. 2018, arXiv 1802.05957).
    """
    if len(shape) == 3:
        layers: list[nn.Module] = [
            nn.Conv2d(shape[0], WIDTH // 2, 3, padding=1),
            nn.Conv2d(WIDTH // 2, WIDTH, 3, stride=2, padding=1),
            nn.Conv2d(WIDTH, WIDTH, 3, padding=1),
        ]
        begin, end = [], [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    else:
        layers = [nn.Linear(math.prod(shape), WIDTH), nn.Linear(WIDTH, WIDTH)]
        begin, end = [nn.Flatten()], []
    hidden = [
        part for layer in layers for part in (parametrizations.spectral_norm(layer), nn.LeakyReLU(SLOPE))
    ]
    last = parametrizations.spectral_norm(nn.Linear(WIDTH, 1))
    return nn.Sequential(*begin, *hidden, *end, last, nn.Flatten(0))
