"""Adversarial: on-policy distillation on pairs, with a critic of samples against data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fewstep.errors import UserError
from fewstep.lazy import lazy_imports
from fewstep.training.method import Batch, Needs, Net, Nets
from fewstep.training.on_policy import OnPolicyDistillation

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from fewstep.model import Model

with lazy_imports():
    from fewstep.methods import _critic


@dataclass(frozen=True, kw_only=True)
class Adversarial(OnPolicyDistillation):
    """Regress the data of pairs through all of the student's steps, and add a critic's loss.

    Source: the fixed-step generator of Lee et al. 2024 (arXiv 2408.08019), adapted: the target is
    the teacher's sample instead of a recording, and there is one small critic, with the hinge loss and
    the spectral norm of Miyato et al. 2018 (arXiv 1802.05957).
    """

    regression_weight: float = 1.0
    weight: float = 0.02
    """Weight of the critic's loss; regression_weight is that of the regression."""
    blur: float = 0.1
    """Standard deviation of the noise added to the critic's input."""
    critic_rate: float = 1.0
    """Learning rate of the critic as a multiple of the student's."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("weight", "blur", "critic_rate"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UserError(f"{name} must be a number from 0, got {getattr(self, name)}")

    @property
    def needs(self) -> Needs:
        """See Method.needs."""
        return Needs(stream="pairs")

    def networks(self, student: Model, load: Callable[[str], Model]) -> dict[str, Net]:
        """See Method.networks."""
        nets = super().networks(student, load)
        return nets | {"critic": Net(_critic.critic(student.config.shape), learning_rate=self.critic_rate)}

    def updates(self, step: int) -> tuple[str, ...]:
        """See Method.updates."""
        return ("critic", "student")

    def critic_loss(self, network: str, nets: Nets, samples: Tensor, batch: Batch, keys: Tensor) -> Tensor:
        """See OnPolicyDistillation.critic_loss."""
        seen = (
            nets["critic"](_critic.blurred(x, which, blur=self.blur, keys=keys))
            for which, x in (("real", batch["data"]), ("made", samples))
        )
        return _critic.critic_hinge(*seen)

    def generator_loss(self, nets: Nets, samples: Tensor, batch: Batch, keys: Tensor) -> Tensor:
        """See OnPolicyDistillation.generator_loss."""
        seen = _critic.blurred(samples, "made", blur=self.blur, keys=keys)
        return -self.weight * nets["critic"](seen)
