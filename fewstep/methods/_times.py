"""Time laws: the training time of a sample, from one uniform random number."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

from fewstep import flow, paths, randomness
from fewstep.errors import UserError
from fewstep.lazy import lazy_imports
from fewstep.registry import unknown

if TYPE_CHECKING:
    from torch import Tensor

    from fewstep.model import ModelConfig

with lazy_imports():
    import torch


SHARPNESS = 4.0  # "a" of Lee et al. 2024


def _logit_normal(u: Tensor) -> Tensor:
    """More weight in the middle, where the velocity is hardest to predict.

    Esser et al. 2024 (arXiv 2403.03206).
    """
    return torch.sigmoid(torch.special.ndtri(u))


def _u_shaped(u: Tensor) -> Tensor:
    """More weight at both ends, where pairs are hardest; Lee et al. 2024 (arXiv 2405.20320), section 4.1.

    Density a (e^(a t) + e^(a (1 - t))) / (2 (e^a - 1)), sampled by its inverse: an exponential on
    one side or, for the lower half of u, on the other. (The paper prints a density that is not
    symmetric; this is the density of its code.)
    """
    side = (2 * u) % 1
    t = torch.log1p(side * math.expm1(SHARPNESS)) / SHARPNESS
    return torch.where(u < 0.5, 1 - t, t)


def _edm(u: Tensor) -> Tensor:
    """Normal logarithms of the noise level sigma = (1 - t) / t, of mean -1.2 and deviation 1.2.

    Karras et al. 2022 (arXiv 2206.00364), table 1, on canonical times t whatever the path is.
    """
    return torch.sigmoid(1.2 + 1.2 * torch.special.ndtri(u))


LAWS: dict[str, Callable[[Tensor], Tensor]] = {
    "uniform": lambda u: u,
    "logit_normal": _logit_normal,
    "u_shaped": _u_shaped,
    "edm": _edm,
}
CANONICAL = ("edm",)
"""Laws of canonical times; the others are of the time of a model's own path."""


def check_law(name: str) -> None:
    """Check that a time law exists.

    Raises:
        UserError: if it does not; the message lists those that exist.
    """
    if name not in LAWS:
        raise UserError(unknown("time law", name, list(LAWS)))


def law_at(name: str, location: float) -> Callable[[Tensor], Tensor]:
    """Return a time law of uniform numbers, the mean of whose logits is `location`.

    Raises:
        UserError: if there is no such law, or the location is no number or not of a logit_normal law.
    """
    check_law(name)
    if not math.isfinite(location):
        raise UserError(f"location must be a finite number, got {location}")
    if location and name != "logit_normal":
        raise UserError(
            f"location {location} is of times logit_normal, not {name}; set times, or leave it out"
        )
    return LAWS[name] if not location else lambda u: torch.sigmoid(torch.special.ndtri(u) + location)


def draw_times(law: str, config: ModelConfig, keys: Tensor) -> Tensor:
    """Return the time of each sample, (n,), in the model's own time.

    The law is rescaled to the times at which the model's prediction gives a velocity, one of canonical times
    is cut off there.
    """
    path, u = paths.get(config.path), randomness.uniforms("train.time", keys)
    if law in CANONICAL:
        return path.time_of(LAWS[law](u.double()).clamp(*flow.usable_times_on(path, config.prediction)))
    start, end = _ends(path, config.prediction)
    return start + (end - start) * LAWS[law](u)


@cache
def _ends(path: paths.Path, prediction: str) -> tuple[float, float]:
    """Return the first and last of the path's own times at which the prediction gives a velocity."""
    ends = torch.tensor(flow.usable_times_on(path, prediction), dtype=torch.float64)
    start, end = path.time_of(ends).tolist()
    return start, end
