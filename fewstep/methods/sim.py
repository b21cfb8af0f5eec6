"""SIM: fine-tune a student by score implicit matching, on its own samples."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fewstep.errors import UserError
from fewstep.methods._online_score import LEAST_SIZE, OnlineScore
from fewstep.registry import unknown
from fewstep.training.method import Batch, Nets

if TYPE_CHECKING:
    from torch import Tensor

DIVERGENCES = ("huber", "squared")


@dataclass(frozen=True, kw_only=True)
class Sim(OnlineScore):
    """Lower the expected distance between the scores of the student's noised samples and the teacher's.

    Source: score implicit matching, Luo et al. 2024 (arXiv 2410.16794), and its squared
    case, score identity distillation, Zhou et al. 2024 (arXiv 2404.04057). Its gradient does not need
    the derivative of the fake score by the student's weights: with y the difference of the scores, it is
    the gradient of -d'(y) . (fake score - score of the noise added) with the networks fixed.
    """

    divergence: str = "huber"
    """huber: d(y) = sqrt(|y|^2 + softness^2) - softness; or squared."""
    softness: float = 0.1
    """For huber: the norm, over all dimensions, up to which a difference of scores counts as small."""
    alpha: float = 1.2
    """For squared: 1 gives the exact gradient; more, which was found better, subtracts the projected loss."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.divergence not in DIVERGENCES:
            raise UserError(unknown("divergence", self.divergence, list(DIVERGENCES)))
        if not 0 < self.softness < math.inf:
            raise UserError(f"softness must be a number above 0, got {self.softness}")
        if not math.isfinite(self.alpha):
            raise UserError(f"alpha must be a number, got {self.alpha}")

    def score_loss(self, nets: Nets, samples: Tensor, batch: Batch, keys: Tensor) -> Tensor:
        """See OnlineScore.score_loss."""
        t, fake, teacher = self.estimates(nets, samples, batch, keys)
        return self.compare(t, samples.flatten(1), fake.flatten(1), teacher.flatten(1))

    def compare(self, t: Tensor, samples: Tensor, fake: Tensor, teacher: Tensor) -> Tensor:
        """Return the loss (n,), a mean over dimensions, of samples and estimates (n, dimensions) at t, (n,).

        It is in units of data: huber weights times by (1 - t)^2 / t; squared divides by the size of the
        teacher's correction, as in arXiv 2404.04057.
        """
        if self.divergence == "huber":
            y = (t / (1 - t) ** 2)[:, None] * (fake - teacher)
            direction = y / (y.square().sum(dim=1, keepdim=True) + self.softness**2).sqrt()
            return (direction * (samples - fake)).mean(dim=1)
        off = teacher - fake
        size = (samples - teacher).detach().abs().mean(dim=1).clamp(min=LEAST_SIZE)
        return (off * (teacher - samples - self.alpha * off)).mean(dim=1) / size
