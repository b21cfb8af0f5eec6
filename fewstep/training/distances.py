"""Distances: how an error, (n, *shape), becomes the loss of each sample, (n,)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from fewstep.errors import UserError
from fewstep.registry import unknown

if TYPE_CHECKING:
    from torch import Tensor


def l2(error: Tensor) -> Tensor:
    """Return the mean over dimensions of the squared error."""
    return error.flatten(1).square().mean(dim=1)


def huber(error: Tensor) -> Tensor:
    """Return (sqrt(|e|^2 + c^2) - c) / d with c = .00054 d for d dimensions; Lee et al. 2024, eq. 9.

    It is robust, but its optimum is not the mean. Use it only where the target is a function of the input.
    """
    d = error[0].numel()
    c = 0.00054 * d
    return ((error.flatten(1).square().sum(dim=1) + c**2).sqrt() - c) / d


def huber_each(error: Tensor) -> Tensor:
    """Return the mean over dimensions of sqrt(e^2 + c^2) - c, c = .001; Wang et al. 2024 (arXiv 2410.07303).

    It is `huber` of single values, as the code of that paper has it, and nearly their absolute value.
    """
    return ((error.flatten(1).square() + 0.001**2).sqrt() - 0.001).mean(dim=1)


def pseudo_huber(error: Tensor) -> Tensor:
    """Return sqrt(|e|^2 + c^2) - c with c = .00054 sqrt(d); Song and Dhariwal 2023 (arXiv 2310.14189).

    Its c is smaller than that of `huber` by sqrt(d), and it is not divided by d.
    """
    c = 0.00054 * math.sqrt(error[0].numel())
    return (error.flatten(1).square().sum(dim=1) + c**2).sqrt() - c


DISTANCES: dict[str, Callable[[Tensor], Tensor]] = {
    "l2": l2,
    "huber": huber,
    "huber_each": huber_each,
    "pseudo_huber": pseudo_huber,
}


def check_distance(name: str) -> None:
    """Check that a distance exists.

    Raises:
        UserError: if it does not; the message lists those that exist.
    """
    if name not in DISTANCES:
        raise UserError(unknown("distance", name, list(DISTANCES)))
