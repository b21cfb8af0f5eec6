"""What a network's output means, and the one solve that turns any meaning into any other.

Each prediction is a row: output = p data + q noise. Together with x = a data + b noise that is a
2x2 linear system in (data, noise), whose determinant a q - b p vanishes where the output says
nothing new about x (a data prediction at the data end, a noise prediction at the noise end).
`fewstep.flow.usable_times` keeps callers off those times.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from fewstep.errors import UserError
from fewstep.lazy import lazy_imports
from fewstep.paths import Coefficients, like
from fewstep.registry import unknown

if TYPE_CHECKING:
    from torch import Tensor

with lazy_imports():
    import torch


Row = tuple["Tensor", "Tensor"]

PARTS: dict[str, Callable[[Coefficients], Row]] = {
    "velocity": lambda c: (c.da, c.db),
    # noise - data where the path is linear: the velocity of a time that runs from data to noise
    "reverse_velocity": lambda c: (-c.da, -c.db),
    "data": lambda c: (torch.ones_like(c.a), torch.zeros_like(c.a)),
    "noise": lambda c: (torch.zeros_like(c.a), torch.ones_like(c.a)),
    # grad log p_t(x) = -E[noise | x] / b; Vincent 2011
    "score": lambda c: (torch.zeros_like(c.a), -1 / c.b),
    # Salimans and Ho 2022 (arXiv 2202.00512), appendix D: a noise - b data, of data with a spread of 1
    "v": lambda c: (-c.b / c.spread, c.a * c.spread),
    # Karras et al. 2022 (arXiv 2206.00364), eq. 7: what their network F gives
    "reverse_v": lambda c: (c.b / c.spread, -c.a * c.spread),
}


def parts(prediction: str, c: Coefficients) -> Row:
    """Return (p, q), each (batch,), with output = p data + q noise.

    Raises:
        UserError: if there is no such prediction; the message lists those that exist.
    """
    if prediction not in PARTS:
        raise UserError(unknown("prediction", prediction, list(PARTS)))
    return PARTS[prediction](c)


def determinant(prediction: str, c: Coefficients) -> Tensor:
    """Return a q - b p, (batch,): zero or not finite where `prediction` can't be solved.

    Raises:
        UserError: see `parts`.
    """
    p, q = parts(prediction, c)
    return c.a * q - c.b * p


def solve(prediction: str, x: Tensor, output: Tensor, c: Coefficients) -> tuple[Tensor, Tensor]:
    """Return the (data, noise) that agree with x and with the network's output, all (batch, *shape).

    Raises:
        UserError: see `parts`.
    """
    p, q = (like(part, x) for part in parts(prediction, c))
    a, b = like(c.a, x), like(c.b, x)
    det = a * q - b * p
    return (q * x - b * output) / det, (a * output - p * x) / det


def express(prediction: str, data: Tensor, noise: Tensor, c: Coefficients) -> Tensor:
    """Return the output, (batch, *shape), that a network predicting `prediction` should give.

    Raises:
        UserError: see `parts`.
    """
    p, q = parts(prediction, c)
    return like(p, data) * data + like(q, noise) * noise
