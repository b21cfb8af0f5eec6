"""DistributionMatching: base of the methods that follow the gradient of a divergence, by two scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from etils.epy import lazy_imports

from fewstep.methods._online_score import LEAST_SIZE, OnlineScore
from fewstep.paths import like
from fewstep.training.distances import l2
from fewstep.training.method import Batch, Nets

if TYPE_CHECKING:
    from torch import Tensor

with lazy_imports():
    import torch


@dataclass(frozen=True, kw_only=True)
class DistributionMatching(OnlineScore):
    """Follow the gradient of the divergence between the student's noised samples and the teacher's.

    Yin et al. 2023 (arXiv 2311.18828), eq. 7 and 8: the gradient of the Kullback-Leibler divergence with
    respect to a sample is the difference of the scores, here in units of data and divided by the size of the
    teacher's correction.
    """

    def score_loss(self, nets: Nets, samples: Tensor, batch: Batch, keys: Tensor) -> Tensor:
        """See OnlineScore.score_loss: half the square of `gradient`, whose gradient it is."""
        with torch.no_grad():
            _, fake, teacher = self.estimates(nets, samples, batch, keys)
            wanted = samples - self.gradient(samples, fake, teacher)
        return l2(samples - wanted) / 2

    def gradient(self, samples: Tensor, fake: Tensor, teacher: Tensor) -> Tensor:
        """Return the gradient by each sample; samples, estimates and result are (n, *shape)."""
        size = (samples - teacher).flatten(1).abs().mean(dim=1).clamp(min=LEAST_SIZE)
        return (fake - teacher) / like(size, samples)
