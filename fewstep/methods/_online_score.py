"""OnlineScore: base of the methods that compare the student's own score with its teacher's."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from etils.epy import lazy_imports

from fewstep import paths, randomness
from fewstep.errors import UserError
from fewstep.flow import as_flow
from fewstep.methods._spans import must_make_the_same
from fewstep.methods.flow_matching import FlowMatching
from fewstep.training.method import Batch, Needs, Net, Nets, conditions_of
from fewstep.training.on_policy import OnPolicyDistillation

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from fewstep.model import Model

with lazy_imports():
    from fewstep import lora
    from fewstep.methods import _critic

WARMUP_UPDATES = 3
LEAST_SIZE = 1e-5  # lower bound of a teacher's correction where it is a divisor


@dataclass(frozen=True, kw_only=True)
class OnlineScore(OnPolicyDistillation):
    """A third network, "fake", starts as the teacher and is trained to the score of the student's samples.

    Scores are compared at samples with fresh noise, on the canonical path x_t = t x + (1 - t) noise.
    There a flow's estimate of the data is D = x_t + (1 - t) velocity and its score (t D - x_t) / (1 - t)^2
    (Tweedie's formula). This holds for a teacher trained on noise drawn independently of the data, not
    for one trained on pairs.

    With a gan_weight a critic also compares the samples with real data, so that the student does not end at
    the teacher's mistakes; Yin et al. 2024 (arXiv 2405.14867), section 4.3, with a small critic of its own
    instead of a head on the fake network.
    """

    guidance: float = 1.0
    """Classifier-free guidance of the teacher's score; the student then needs none."""
    times: tuple[float, float] = (0.02, 0.95)
    """The range of canonical times at which scores are compared. Close to 0 the scores hardly differ; close
    to 1 a score's error is large."""
    fake_warmup: int = 30
    """Number of first steps in which the fake network is updated three times instead of once."""
    fake_rate: float = 5.0
    """Learning rate of the fake network, and of the critic, as a multiple of the student's."""
    gan_weight: float = 0.0
    """Weight of the critic's loss, over the number of dimensions, beside that of the scores, which is a mean
    over them; above 0 the batches must hold real data."""
    blur: float = 0.1
    """Standard deviation of the noise added to the critic's input."""

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "times", tuple(self.times))
        if len(self.times) != 2 or not 0 <= self.times[0] <= self.times[1] < 1:
            raise UserError(f"times must be two numbers from 0 up to but not 1, in order, got {self.times}")
        if self.fake_warmup < 0 or not 0 < self.fake_rate < math.inf:
            raise UserError(
                f"fake_warmup must be 0 or more and fake_rate a number above 0, "
                f"got {self.fake_warmup}, {self.fake_rate}"
            )
        for name in ("gan_weight", "blur"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UserError(f"{name} must be a number from 0, got {getattr(self, name)}")
        if self.gan_weight and self.regression_weight:
            raise UserError(
                "gan_weight learns from real data and regression_weight from pairs; set one of them to 0"
            )

    @property
    def needs(self) -> Needs:
        """See Method.needs."""
        needs = replace(super().needs, teacher=True, score=True)
        if self.gan_weight:
            return replace(needs, data=True, options={**needs.options, "data": "gan_weight"})
        return needs

    def networks(self, student: Model, load: Callable[[str], Model]) -> dict[str, Net]:
        """See Method.networks."""
        nets, teacher = super().networks(student, load), load("teacher")
        self._check_teacher(student, teacher)
        fake = lora.trainable_copy(teacher, student)
        if self.gan_weight:
            nets["critic"] = Net(_critic.critic(student.config.shape), learning_rate=self.fake_rate)
        return nets | {
            "fake": Net(fake, learning_rate=self.fake_rate),
            "teacher": Net(teacher, trains=False),
        }

    def trained(self) -> dict[str, Any]:
        """See Method.trained."""
        return super().trained() | {"baked_guidance": self.guidance}

    def updates(self, step: int) -> tuple[str, ...]:
        """See Method.updates."""
        critic = ("critic",) if self.gan_weight else ()
        return ("fake",) * (WARMUP_UPDATES if step < self.fake_warmup else 1) + critic + ("student",)

    def score_loss(self, nets: Nets, samples: Tensor, batch: Batch, keys: Tensor) -> Tensor:
        """Return the student's loss (n,) on its samples (n, *shape), from the two scores."""
        raise NotImplementedError

    def generator_loss(self, nets: Nets, samples: Tensor, batch: Batch, keys: Tensor) -> Tensor:
        """See OnPolicyDistillation.generator_loss."""
        losses = self.score_loss(nets, samples, batch, keys)
        if not self.gan_weight:
            return losses
        real = _critic.realness(nets["critic"], samples, "made", blur=self.blur, keys=keys)
        return losses - self.gan_weight / samples[0].numel() * real

    def critic_loss(self, network: str, nets: Nets, samples: Tensor, batch: Batch, keys: Tensor) -> Tensor:
        """See OnPolicyDistillation.critic_loss: flow matching in the fake network's prediction."""
        if network == "critic":
            return _critic.hinge(nets["critic"], batch["data"], samples, blur=self.blur, keys=keys)
        noise = randomness.noises("train.fake.noise", keys, tuple(samples.shape[1:])).to(samples.device)
        task = batch | {"noise": noise, "data": samples}
        return FlowMatching().loss({"student": nets["fake"]}, task, "student", 0.0, keys)

    def estimates(
        self, nets: Nets, samples: Tensor, batch: Batch, keys: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return times (n,), and the fake's and the teacher's estimates of the data, (n, *shape), there."""
        first, last = self.times
        t = first + (last - first) * randomness.uniforms("train.compare.time", keys).to(samples)
        noise = randomness.noises("train.compare.noise", keys, tuple(samples.shape[1:])).to(samples)
        x = paths.get("linear").sample(noise, samples, t).x
        conditions = conditions_of(nets["teacher"].config, batch)
        fake, teacher = as_flow(nets["fake"]), as_flow(nets["teacher"], guidance=self.guidance)
        left = paths.like(1 - t, x)
        return t, x + left * fake(x, t, **conditions), x + left * teacher(x, t, **conditions)

    def _check_teacher(self, student: Model, teacher: Model) -> None:
        must_make_the_same(student, teacher)
        if teacher.config.trained_times != "all":
            raise UserError(
                "the teacher is trained only at the timesteps of its grid, and gives no score elsewhere; "
                "use the model that it was distilled from"
            )
        flow, (first, last) = as_flow(teacher, guidance=self.guidance), self.times
        if first < flow.t_start or last > flow.t_end:
            t = first if first < flow.t_start else last
            raise UserError(
                f"the teacher predicts {teacher.config.prediction} on path {teacher.config.path}, which "
                f"gives no score at t = {t}; set times within [{flow.t_start:g}, {flow.t_end:g}]"
            )
