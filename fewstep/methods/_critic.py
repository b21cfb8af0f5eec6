"""critic: a small network that discriminates real samples from made ones, and its hinge loss."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from etils.epy import lazy_imports

from fewstep import randomness

if TYPE_CHECKING:
    from torch import Tensor, nn

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


def hinge(critic: nn.Module, real: Tensor, made: Tensor, *, blur: float, keys: Tensor) -> Tensor:
    """Return the critic's loss (n,), of real and made samples (n, *shape); Miyato et al. 2018, eq. 16."""
    told = [realness(critic, x, which, blur=blur, keys=keys) for which, x in (("real", real), ("made", made))]
    return (1 - told[0]).relu() + (1 + told[1]).relu()


def realness(critic: nn.Module, x: Tensor, which: str, *, blur: float, keys: Tensor) -> Tensor:
    """Return how real samples x (n, *shape) look to the critic, (n,), once noise is added.

    The noise, of standard deviation `blur`, hides differences too small to matter (Sonderby et al. 2016,
    arXiv 1610.04490). Real and made samples, `which`, get noise of their own.
    """
    noise = randomness.noises(f"train.blur.{which}", keys, tuple(x.shape[1:])).to(x)
    return critic(x + blur * noise)
