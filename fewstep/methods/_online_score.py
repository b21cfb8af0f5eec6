"""OnlineScore: base of the methods that compare the student's own score with its teacher's."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from fewstep import paths, randomness
from fewstep.errors import UserError
from fewstep.flow import as_flow
from fewstep.lazy import lazy_imports
from fewstep.methods import _times
from fewstep.methods._spans import must_make_the_same
from fewstep.methods.flow_matching import FlowMatching
from fewstep.registry import unknown
from fewstep.training.method import Batch, Needs, Net, Nets, conditions_of, real_batch
from fewstep.training.on_policy import OnPolicyDistillation

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from fewstep.model import Model

with lazy_imports():
    from fewstep import lora
    from fewstep.methods import _critic, _fake_critic

WARMUP_UPDATES = 3
SEES = ("blurred", "noised")
CRITICS = ("own", "fake")
LEAST_SIZE = 1e-5  # lower bound of a teacher's correction where it is a divisor


@dataclass(frozen=True, kw_only=True)
class OnlineScore(OnPolicyDistillation):
    """A third network, "fake", starts as the teacher and is trained to the score of the student's samples.

    Scores are compared at samples with fresh noise, on the canonical path x_t = t x + (1 - t) noise.
    There a flow's estimate of the data is D = x_t + (1 - t) velocity and its score (t D - x_t) / (1 - t)^2
    (Tweedie's formula). This holds for a teacher trained on noise drawn independently of the data, not
    for one trained on pairs.

    With a gan_weight a critic also compares the samples with real data, so that the student does not end at
    the teacher's mistakes; Yin et al. 2024 (arXiv 2405.14867), section 4.3. There it is a head on the fake
    network, and both learn in one update; by default it is a small network of its own.
    """

    guidance: float = 1.0
    """Classifier-free guidance of the teacher's score; the student then needs none."""
    times: tuple[float, float] = (0.02, 0.95)
    """The range of canonical times at which scores are compared. Close to 0 the scores hardly differ; close
    to 1 a score's error is large."""
    compare_times: str = "uniform"
    """Law of these times in their range: uniform, logit_normal, u_shaped or edm, as of flow_matching."""
    fake_updates: int = 1
    """Updates of the fake network in each step, each from new samples; Yin et al. 2024 take 5."""
    fake_warmup: int = 30
    """Number of first steps in which the fake network is updated three times, or fake_updates if more."""
    fake_rate: float = 5.0
    """Learning rate of the fake network, and of the critic, as a multiple of the student's."""
    gan_weight: float = 0.0
    """Weight of the critic's loss, over the number of dimensions, beside that of the scores, which is a mean
    over them; above 0 the batches must hold real data."""
    critic: str = "own"
    """own: a small network. fake: a head on features in the middle of the fake network, which then learns to
    tell real data from samples, too; with gan_loss logistic and critic_sees noised."""
    critic_weight: float = 0.01
    """With critic fake: weight of the critic's loss beside the fake network's own, which is a mean over
    dimensions; as in the code of Yin et al. 2024."""
    blur: float = 0.1
    """Standard deviation of the noise added to the critic's input."""
    gan_loss: str = "hinge"
    """hinge, of a critic whose layers have spectral norm 1; or logistic, of one whose layers are free, which
    learns the logarithm of the ratio of densities."""
    critic_sees: str = "blurred"
    """blurred: samples with the noise of `blur`. noised: samples at times drawn as those at which scores are
    compared, and these times, as in Yin et al. 2024."""
    r1_weight: float = 0.0
    """Weight, in the critic's loss, of R1: the square of the critic's slope at real samples, as a little more
    noise shows it."""

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
        _times.check_law(self.compare_times)
        if self.fake_updates < 1:
            raise UserError(f"fake_updates must be 1 or more, got {self.fake_updates}")
        for name, known in (
            ("gan_loss", list(_critic.CRITIC_LOSSES)),
            ("critic_sees", list(SEES)),
            ("critic", list(CRITICS)),
        ):
            if getattr(self, name) not in known:
                raise UserError(unknown(name, getattr(self, name), known))
        for name in ("gan_weight", "blur", "r1_weight", "critic_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UserError(f"{name} must be a number from 0, got {getattr(self, name)}")
        if self.critic == "fake" and not self.tells_ratio:
            raise UserError(
                "critic fake is a head on a network of noised samples; set a gan_weight above 0, gan_loss to "
                "logistic and critic_sees to noised, or critic to own"
            )

    @property
    def tells_ratio(self) -> bool:
        """Whether a critic tells the ratio of densities, data over samples, where scores are compared."""
        return self.gan_weight > 0 and self.gan_loss == "logistic" and self.critic_sees == "noised"

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
        if self.critic == "fake":
            fake = _fake_critic.WithHead(fake)
        elif self.gan_weight:
            shape, normed = student.config.shape, self.gan_loss == "hinge"
            seen = _critic.shape_with_time(shape) if self.critic_sees == "noised" else shape
            nets["critic"] = Net(_critic.critic(seen, normed=normed), learning_rate=self.fake_rate)
        return nets | {
            "fake": Net(fake, learning_rate=self.fake_rate),
            "teacher": Net(teacher, trains=False),
        }

    def trained(self) -> dict[str, Any]:
        """See Method.trained."""
        return super().trained() | {"baked_guidance": self.guidance}

    def updates(self, step: int) -> tuple[str, ...]:
        """See Method.updates."""
        critic = ("critic",) if self.gan_weight and self.critic == "own" else ()
        least = WARMUP_UPDATES if step < self.fake_warmup else 1
        return ("fake",) * max(least, self.fake_updates) + critic + ("student",)

    def score_loss(self, nets: Nets, samples: Tensor, batch: Batch, keys: Tensor) -> Tensor:
        """Return the student's loss (n,) on its samples (n, *shape), from the two scores."""
        raise NotImplementedError

    def generator_loss(self, nets: Nets, samples: Tensor, batch: Batch, keys: Tensor) -> Tensor:
        """See OnPolicyDistillation.generator_loss."""
        losses = self.score_loss(nets, samples, batch, keys)
        if not self.gan_weight:
            return losses
        told = _critic.STUDENT_LOSSES[self.gan_loss](self.realness(nets, samples, batch, keys))
        return losses + self.gan_weight / samples[0].numel() * told

    def realness(self, nets: Nets, samples: Tensor, batch: Batch, keys: Tensor) -> Tensor:
        """Return what the critic says of the student's samples (n, *shape), (n,): more of what looks real."""
        says, seen = self._view(nets, samples, "made", batch, keys)
        return says(seen)

    def critic_loss(self, network: str, nets: Nets, samples: Tensor, batch: Batch, keys: Tensor) -> Tensor:
        """See OnPolicyDistillation.critic_loss: flow matching in the fake network's prediction."""
        if network == "critic":
            return self.discriminator_loss(nets, samples, batch, keys)
        noise = randomness.noises("train.fake.noise", keys, tuple(samples.shape[1:])).to(samples.device)
        task = batch | {"noise": noise, "data": samples}
        losses = FlowMatching().loss({"student": nets["fake"]}, task, "student", 0.0, keys)
        if self.critic == "own":
            return losses
        return losses + self.critic_weight * self.discriminator_loss(nets, samples, batch, keys)

    def discriminator_loss(self, nets: Nets, samples: Tensor, batch: Batch, keys: Tensor) -> Tensor:
        """Return the critic's loss, (n,), of what it says of real data and of samples (n, *shape)."""
        beside = real_batch(batch)
        says, real = self._view(nets, beside["data"], "real", beside, keys)
        loss = _critic.CRITIC_LOSSES[self.gan_loss](says(real), self.realness(nets, samples, batch, keys))
        if not self.r1_weight:
            return loss
        return loss + self.r1_weight * _critic.slope(says, real, keys)

    def estimates(
        self, nets: Nets, samples: Tensor, batch: Batch, keys: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return times (n,), and the fake's and the teacher's estimates of the data, (n, *shape), there."""
        t, x = self.noised(samples, "compare", keys)
        fake = self.estimate(nets["fake"], x, t, batch)
        return t, fake, self.estimate(nets["teacher"], x, t, batch, guidance=self.guidance)

    def noised(
        self, samples: Tensor, stream: str, keys: Tensor, after: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return random times of `times`, (n,), and the samples (n, *shape) there, with fresh noise.

        They have the law of `compare_times`; with `after`, (n,), they are uniform, and none is before that
        where `times` goes so far.
        """
        earliest, last = self.times
        first = earliest if after is None else after.clamp(earliest, last)
        law = _times.LAWS[self.compare_times if after is None else "uniform"]
        t = first + (last - first) * law(randomness.uniforms(f"train.{stream}.time", keys)).to(samples)
        noise = randomness.noises(f"train.{stream}.noise", keys, tuple(samples.shape[1:])).to(samples)
        return t, paths.get("linear").sample(noise, samples, t).x

    def estimate(self, model: Model, x: Tensor, t: Tensor, batch: Batch, *, guidance: float = 1.0) -> Tensor:
        """Return a model's estimate of the data, (n, *shape), at points x of times t, (n,)."""
        velocity = as_flow(model, guidance=guidance)(x, t, **conditions_of(model.config, batch))
        return x + paths.like(1 - t, x) * velocity

    def _view(
        self, nets: Nets, samples: Tensor, which: str, batch: Batch, keys: Tensor
    ) -> tuple[Callable[[Tensor], Tensor], Tensor]:
        """Return the critic of what it sees of samples (n, *shape), real or made, and that, (n, *shape).

        The batch has their conditions.
        """
        if self.critic_sees == "blurred":
            return nets["critic"], _critic.blurred(samples, which, blur=self.blur, keys=keys)
        t, x = self.noised(samples, "compare" if which == "made" else "real", keys)
        if self.critic == "own":
            return lambda x: nets["critic"](_critic.with_time(x, t)), x
        fake = nets["fake"]
        conditions = conditions_of(fake.config, batch)
        return lambda x: fake.logits_at(x, t, conditions), x

    def _check_teacher(self, student: Model, teacher: Model) -> None:
        must_make_the_same(student, teacher)
        if teacher.config.velocity_until != "now":
            raise UserError(
                "the teacher is a flow map, or jumps to data, and was not taught a score; use the model that "
                "it was distilled from"
            )
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
