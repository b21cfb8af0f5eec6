"""DistributionMatching: base of the methods that follow the gradient of a divergence, by two scores."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fewstep.errors import UserError
from fewstep.lazy import lazy_imports
from fewstep.methods._online_score import LEAST_SIZE, OnlineScore
from fewstep.paths import like
from fewstep.registry import unknown
from fewstep.training.distances import l2
from fewstep.training.method import Batch, Nets, conditions_of

if TYPE_CHECKING:
    from torch import Tensor

    from fewstep.model import Model

with lazy_imports():
    import torch

WEIGHTS: dict[str, Callable[[Tensor], Tensor]] = {
    "reverse_kl": lambda r: r**0,
    "forward_kl": lambda r: r,
    "jeffreys": lambda r: (1 + r) / 2,
    "jensen_shannon": lambda r: 2 * r / (1 + r),
    "hellinger": lambda r: r**0.5,
    "softened_reverse_kl": lambda r: 2 / (1 + r),
    "neyman": lambda r: 1 / r,
}
"""h(r) / h(1) for h(r) = f''(r) r^2 of the divergence of f, with r the density of data over the student's."""
RATIOS = (0.1, 20.0)  # between which ratios are clamped; as in the code of Xu et al. 2025
GUIDANCE_TIMES = ("shared", "later")


@dataclass(frozen=True, kw_only=True)
class DistributionMatching(OnlineScore):
    """Follow the gradient of the divergence between the student's noised samples and the teacher's.

    Yin et al. 2023 (arXiv 2311.18828), eq. 7 and 8: the gradient of the Kullback-Leibler divergence with
    respect to a sample is the difference of the scores, here in units of data and divided by the size of the
    teacher's correction. That of another f-divergence is the same times h(r), Xu et al. 2025 (arXiv
    2502.15681): r is what the critic tells at the same noised sample. There h is divided by its mean over the
    batch; here, where no sample's loss depends on others, by its value where student and data agree.
    """

    divergence: str = "reverse_kl"
    """reverse_kl, of the student from the teacher; one that goes less for a part of the data alone:
    forward_kl, jeffreys, jensen_shannon or hellinger; or more: softened_reverse_kl or neyman. All but the
    first need a gan_weight, with gan_loss logistic and critic_sees noised."""
    guidance_times: str = "shared"
    """Where the effect of guidance is found: shared, at the times at which scores are compared; or later, at
    times of its own from that of the student's last call, as in Liu et al. 2025 (arXiv 2511.22677)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, known in (("divergence", list(WEIGHTS)), ("guidance_times", list(GUIDANCE_TIMES))):
            if getattr(self, name) not in known:
                raise UserError(unknown(name, getattr(self, name), known))
        if self.divergence != "reverse_kl" and not self.tells_ratio:
            raise UserError(
                f"divergence {self.divergence} needs the ratio of densities where scores are compared; set a "
                "gan_weight above 0, gan_loss to logistic and critic_sees to noised, or divergence to "
                "reverse_kl"
            )
        if self.guidance_times == "later" and self.guidance == 1:
            raise UserError("guidance_times later is for guidance; set guidance, or guidance_times to shared")

    def score_loss(self, nets: Nets, samples: Tensor, batch: Batch, keys: Tensor) -> Tensor:
        """See OnlineScore.score_loss: half the square of `gradient`, whose gradient it is."""
        with torch.no_grad():
            _, fake, teacher = self.estimates(nets, samples, batch, keys)
            apart = self.guidance_times == "later"
            added = self.added_by_guidance(nets, samples, batch, keys) if apart else 0.0
            gradient = self.gradient(samples, fake, teacher, added)
            if self.divergence != "reverse_kl":
                low, high = map(math.log, RATIOS)
                ratio = self.realness(nets, samples, batch, keys).clamp(low, high).exp()
                gradient = like(WEIGHTS[self.divergence](ratio), samples) * gradient
            wanted = samples - gradient
        return l2(samples - wanted) / 2

    def gradient(self, samples: Tensor, fake: Tensor, teacher: Tensor, added: Tensor | float = 0.0) -> Tensor:
        """Return the gradient by each sample; samples, estimates and result are (n, *shape).

        `added` to the teacher's estimate is what has no part in the size of its correction.
        """
        size = (samples - teacher).flatten(1).abs().mean(dim=1).clamp(min=LEAST_SIZE)
        return (fake - teacher - added) / like(size, samples)

    def estimates(
        self, nets: Nets, samples: Tensor, batch: Batch, keys: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See OnlineScore.estimates; the teacher's is the conditional one if guidance has its own times."""
        if self.guidance_times == "shared":
            return super().estimates(nets, samples, batch, keys)
        t, x = self.noised(samples, "compare", keys)
        fake, teacher = (self.estimate(nets[name], x, t, batch) for name in ("fake", "teacher"))
        return t, fake, teacher

    def added_by_guidance(self, nets: Nets, samples: Tensor, batch: Batch, keys: Tensor) -> Tensor:
        """Return what guidance adds to the teacher's estimates, (n, *shape), at times of its own."""
        asked = self.last_call(nets["student"], keys).to(samples)
        t, x = self.noised(samples, "guide", keys, after=asked)
        teacher = nets["teacher"]
        plain = self.estimate(teacher, x, t, batch)
        if teacher.config.guidance_input:
            return self.estimate(teacher, x, t, batch, guidance=self.guidance) - plain
        negative = teacher.negative(conditions_of(teacher.config, batch))
        added = (self.guidance - 1) * (plain - self.estimate(teacher, x, t, negative))
        if (channels := teacher.config.guidance_channels) is not None:
            added[:, channels:] = 0
        return added

    def last_call(self, student: Model, keys: Tensor) -> Tensor:
        """Return the time of the call that made each sample, (n,): 0 where gradients go through all calls."""
        return torch.zeros(len(keys))
