"""critic: a small network that discriminates real samples from made ones; what it sees, and its losses."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from fewstep import randomness
from fewstep.lazy import lazy_imports
from fewstep.paths import like

if TYPE_CHECKING:
    from torch import Tensor, nn

with lazy_imports():
    import torch
    from torch import nn
    from torch.nn import functional
    from torch.nn.utils import parametrizations


WIDTH, SLOPE = 64, 0.2
NUDGE = 0.1  # standard deviation of the noise by which a slope is measured


def critic(shape: tuple[int, ...], *, normed: bool = True) -> nn.Module:
    """Return a network from samples (n, *shape) to one number each, (n,).

    For images it is convolutional, with the last features averaged over the image; otherwise it is fully
    connected. If `normed`, every layer has spectral norm 1 (Miyato et al. 2018, arXiv 1802.05957).
    """
    norm: Callable[[nn.Module], nn.Module] = parametrizations.spectral_norm if normed else lambda layer: layer
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
    hidden = [part for layer in layers for part in (norm(layer), nn.LeakyReLU(SLOPE))]
    return nn.Sequential(*begin, *hidden, *end, norm(nn.Linear(WIDTH, 1)), nn.Flatten(0))


def blurred(x: Tensor, which: str, *, blur: float, keys: Tensor) -> Tensor:
    """Return samples x (n, *shape) with noise of standard deviation `blur`.

    It hides differences too small to matter (Sonderby et al. 2016, arXiv 1610.04490). Real and made samples,
    `which`, get noise of their own.
    """
    noise = randomness.noises(f"train.blur.{which}", keys, tuple(x.shape[1:])).to(x)
    return x + blur * noise


def shape_with_time(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape that `with_time` gives samples of this shape."""
    return (shape[0] + 1, *shape[1:]) if len(shape) == 3 else (math.prod(shape) + 1,)


def with_time(x: Tensor, t: Tensor) -> Tensor:
    """Return samples x (n, *shape) with their times t, (n,): as a further channel, or a further number."""
    if x.dim() == 4:
        return torch.cat([x, like(t, x).expand_as(x[:, :1])], dim=1)
    return torch.cat([x.flatten(1), t[:, None]], dim=1)


def critic_hinge(real: Tensor, made: Tensor) -> Tensor:
    """Return the critic's loss of what it says of real and made samples, all (n,); Miyato et al., eq. 16."""
    return (1 - real).relu() + (1 + made).relu()


def critic_logistic(real: Tensor, made: Tensor) -> Tensor:
    """Return the critic's loss, (n,), whose optimum is the logarithm of the ratio of densities, real to made.

    Goodfellow et al. 2014 (arXiv 1406.2661), eq. 1 and 2.
    """
    return functional.softplus(-real) + functional.softplus(made)


CRITIC_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "hinge": critic_hinge,
    "logistic": critic_logistic,
}
STUDENT_LOSSES: dict[str, Callable[[Tensor], Tensor]] = {
    "hinge": lambda made: -made,
    "logistic": lambda made: functional.softplus(-made),
}
"""The student's loss, (n,), of what the critic says of its samples."""


def slope(says: Callable[[Tensor], Tensor], x: Tensor, keys: Tensor) -> Tensor:
    """Return the squared norm of the critic's gradient by each sample x, (n,), estimated with one noise.

    It is ((C(x + s noise) - C(x)) / s)^2, whose mean over noises is that norm where C is linear: R1 of
    Mescheder et al. 2018 (arXiv 1801.04406) without second derivatives, as in Lin et al. 2025 (arXiv
    2501.08316). It is outside autocast: a difference of values in bfloat16 is mostly their rounding.
    """
    noise = randomness.noises("train.nudge", keys, tuple(x.shape[1:])).to(x)
    with torch.autocast(x.device.type, enabled=False):
        return ((says(x + NUDGE * noise) - says(x)) / NUDGE).square()
