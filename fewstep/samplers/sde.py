"""SDE: part of the noise in a state is replaced in each step, by any diffusion schedule."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from fewstep.errors import UserError
from fewstep.registry import unknown
from fewstep.samplers import Estimate

if TYPE_CHECKING:
    from torch import Tensor

DIFFUSIONS: dict[str, Callable[[float], float]] = {  # eps at t
    "bound": lambda t: (1 - t) / t if t else math.inf,
    "noise": lambda t: 1 - t,
    "middle": lambda t: math.sin(math.pi * t) ** 2,
    "decreasing": lambda t: ((1 + math.cos(math.pi * t)) / 2) ** 2,
}


@dataclass(frozen=True, kw_only=True)
class Sde:
    """dX = (v + eps s) dt + sqrt(2 eps) dW: for any eps(t) from 0 its states have the law of the flow's.

    Source: Albergo, Boffi and Vanden-Eijnden 2023 (arXiv 2303.08797); schedules of Ma et al. 2024
    (arXiv 2401.08740). With s = -E[noise | x] / (1 - t), a step of length h replaces a part
    r^2 = 2 eps h / (1 - t_next)^2 of the variance of the estimated noise. To first order in h that is the
    Euler-Maruyama step, but it can't overshoot where eps is large: r is 1 at most, as in stochastic DDIM
    (Song et al. 2021, arXiv 2010.02502). The last step ends at E[data | x] (Tweedie's formula): keep it
    short.

    A model whose velocity is off by e has a score that is off by e t / (1 - t). The bound of the divergence,
    the integral of E |e|^2 (1 + eps t / (1 - t))^2 / (4 eps), is then least for eps = (1 - t) / t, whatever e
    is: `bound`, which is also the SDE that noised the data, reversed. All schedules end at 0: one that does
    not would move samples along the score at the data, which is unbounded for data on a surface, and
    steps cap it, so that errors fall by the root of the number of steps alone.

    Raises:
        UserError: if there is no such diffusion, or the strength is below 0 or not finite.
    """

    learned_from: ClassVar[Literal["independent", "pairs"]] = "independent"

    diffusion: str = "bound"
    """eps(t): bound, (1 - t) / t; noise, 1 - t; middle, sin(pi t)^2; decreasing, from 1 to 0."""
    strength: float = 1.0
    """Factor of eps; 0 is the flow itself, by Euler steps."""

    def __post_init__(self) -> None:
        if self.diffusion not in DIFFUSIONS:
            raise UserError(unknown("diffusion", self.diffusion, list(DIFFUSIONS)))
        if not 0 <= self.strength < math.inf:
            raise UserError(f"strength must be a number from 0, got {self.strength}")

    def step(self, estimate: Estimate, noise: Tensor, fresh: Tensor, t: float, t_next: float) -> Tensor:
        """See Sampler.step."""
        left = 1 - t_next
        if left == 0:
            return estimate.data
        replaced = self.replaced(t, t_next)
        mixed = (1 - replaced) ** 0.5 * estimate.noise + replaced**0.5 * fresh
        return t_next * estimate.data + left * mixed

    def replaced(self, t: float, t_next: float) -> float:
        """Return r^2, the part of the noise's variance that a step before the last one replaces."""
        if not self.strength:
            return 0.0
        eps = self.strength * DIFFUSIONS[self.diffusion](t)
        return min(1.0, 2 * eps * (t_next - t) / (1 - t_next) ** 2)
