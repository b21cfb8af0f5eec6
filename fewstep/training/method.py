"""Method: the interface of a training method. Needs: what a stage must supply to run it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from fewstep.conditions import must_be_given
from fewstep.errors import UserError
from fewstep.noises import must_be_normal

if TYPE_CHECKING:
    from torch import Tensor, nn

    from fewstep.model import Model, ModelConfig
    from fewstep.noises import Law

Batch = dict[str, "Tensor"]
REAL = "real "  # what the names of real data and its conditions begin with in other batches
Nets = Mapping[str, Any]  # modules by name; the "student" and the "teacher" are fewstep.model.Model


class KnownNets(dict[str, Any]):
    """The networks of a training, by name, which tell of one that is not there.

    Raises:
        UserError: if a network is asked for that the method neither returns nor has averaged.
    """

    def __missing__(self, name: str) -> Any:
        raise UserError(
            f"the loss asks for the network {name!r}, which is not kept; there are: "
            f"{', '.join(sorted(self))}. Let the method return it from `networks`, or name it and its decay "
            "in the averages of its needs"
        )


@dataclass
class Net:
    """One of the networks that a method trains or evaluates."""

    module: nn.Module
    trains: bool = True
    """Whether it is trained; otherwise it is frozen and in evaluation mode."""
    halves: bool = True
    """Whether the setting `frozen` holds for its weights; otherwise they stay as they are."""
    ema: bool = False
    """Whether a moving average of its weights is kept."""
    averages: Mapping[str, float] = field(default_factory=dict)
    """Decays of further moving averages, which `loss` finds by these names among the networks."""
    learning_rate: float = 1.0
    """Its learning rate as a multiple of the loop's."""


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What a method needs besides the student. Stages read this and never compare a method's name.

    A stage rejects a method before any work if it trains on another stream, or needs something that the
    stage can't supply.
    """

    stream: Literal["data", "pairs", "trajectories", "noise"]
    """The content of a batch; see Method."""
    all_states: bool = False
    """For trajectories: all stored states and their times, not only those at the student's timesteps."""
    teacher: bool = False
    """The model "teacher", which `networks` loads."""
    score: bool = False
    """A teacher with scores, that is, one trained on noise drawn independently of the data."""
    conditions: bool = False
    """A model with conditions; every batch then has them."""
    data: bool = False
    """Real data in addition to the stream; see `real_batch`."""
    features: str | None = None
    """A feature network for its loss, which `networks` loads as "features": that of monitors (monitor), or
    efficientnet_lite0; one that measures no result."""
    second_time: bool = False
    """A network that takes a second time, the end of a step; see fewstep.timing.with_second_time."""
    flow_map: bool = False
    """A student that is a flow map already, trained by another method."""
    last_velocity: bool = False
    """A student that is a refiner, and is given the last velocity; see fewstep.refining."""
    slow_times: bool = False
    """A network that may be differentiated by its times; see fewstep.timing.with_slow_times."""
    guidance_input: bool = False
    """A network that takes the scale of guidance; see fewstep.guidance_input.with_guidance_input."""
    averages: Mapping[str, float] = field(default_factory=dict)
    """Decays of moving averages of the student's weights, from 0 up to but not 1, by the names under which
    `loss` finds them among the networks; every stage keeps them.

    Raises:
        UserError: for another decay.
    """
    options: Mapping[str, str] = field(default_factory=dict)
    """By the name of a need: the option that makes the method need it, for messages."""

    def __post_init__(self) -> None:
        for name, decay in self.averages.items():
            if not 0 <= decay < 1:
                raise UserError(f"the average {name!r} needs a decay from 0 up to but not 1, got {decay}")

    def unmet(self, supplied: Collection[str]) -> list[str]:
        """Return the names of the needs, other than the stream and averages, that are not supplied."""
        others = ("stream", "averages", "options")
        names = [need.name for need in fields(self) if need.name not in others]
        return [name for name in names if getattr(self, name) and name not in supplied]

    def with_option(self, need: str) -> str:
        """Return " with X" if the method has this need for its option X, else nothing, for messages."""
        return f" with {self.options[need]}" if need in self.options else ""


@dataclass(frozen=True, kw_only=True)
class Method:
    """A way to train a student; the fields of a subclass are its options.

    A batch is a dictionary of tensors with the same first dimension n. Its fields depend on the stream that
    the method needs: "data" (data), "pairs" (noise, data), "trajectories" (states (n, steps + 1, *shape)):
    the teacher's states at the student's timesteps, or all stored ones and their times (n, stored); or
    "noise" (nothing more). All have the conditions by name, the label among them if there are classes.
    `keys`, int64 (n, 2), are its samples' keys for fewstep.randomness.
    """

    trained_times: ClassVar[str] = "all"
    """"grid" if the student is trained only at the timesteps of its grid; see ModelConfig.trained_times."""
    map_preserving: ClassVar[bool] = True
    """Whether the student is trained to map each noise to the same sample as its teacher."""

    @property
    def needs(self) -> Needs:
        """What the method needs with these options."""
        return Needs(stream="pairs")

    def networks(self, student: Model, load: Callable[[str], Model]) -> dict[str, Net]:
        """Return the networks by name, the student among them; `load` gives the "teacher".

        New networks are initialised from torch's global generator, which the loop seeds.

        Raises:
            UserError: if this method can't train such a student.
        """
        self.check_labels(bool(student.config.condition_names))
        self.check_noise(student.noise)
        if student.config.velocity_until == "any":
            self.check_flow_map()
        return {"student": Net(student, ema=True, averages=self.needs.averages)}

    def check_labels(self, labels: bool) -> None:
        """Check that the method can train a student with, or without, conditions; needs no student.

        Raises:
            UserError: if this method can't train such a student.
        """
        if self.needs.conditions and not labels:
            raise UserError("it needs a model with classes, or other conditions")

    def check_noise(self, law: Law) -> None:
        """Check that the method can train a student that starts from noise of this law; needs no student.

        Raises:
            UserError: if this method can't train such a student.
        """
        if self.needs.score:
            must_be_normal(law, what="the score that it compares")

    def check_steps(self, steps: int) -> None:
        """Check that the method can train a student of so many steps; needs no student.

        Raises:
            UserError: if it can't; the message says what to change.
        """

    def check_flow_map(self) -> None:
        """Check that the method trains a flow map for the steps that it samples with; needs no student.

        Raises:
            UserError: if it can't; the message says what to change.
        """
        if self.trained_times != "grid" and not self.needs.second_time:
            raise UserError(
                "it trains a network with one time, but the student's has a second; start from its teacher"
            )

    @property
    def independent_noise(self) -> bool:
        """Whether it learns from noise that is drawn independently of the data."""
        return self.needs.stream == "data"

    @property
    def velocity_loss(self) -> bool:
        """Whether the loss of a velocity on the linear path is its plain mean squared error.

        That is the mean over times uniform from 0 to 1, of the velocity of all conditions.
        """
        return False

    def no_score(self) -> str | None:
        """Return why a model that this method trained gives no scores; None if it gives them.

        It gives scores if noise was drawn independently of the data: then Tweedie's formula holds. The
        text is appended to the setting that names the method.
        """
        return f" learns from {self.needs.stream}, and gives no scores; set it to flow_matching"

    def trained(self) -> dict[str, Any]:
        """Return the fields of a student's ModelConfig that this training sets, whatever it started from.

        A training that hides no conditions forgets what an earlier one learnt about hidden ones.
        """
        return {
            "trained_times": self.trained_times,
            "equal_steps": None,
            "map_preserving": self.map_preserving,
            "jitter": 0.0,
            "guidable": False,
        }

    def updates(self, step: int) -> tuple[str, ...]:
        """Return the names of the networks to update in this step, in order. Each update has its own keys."""
        return ("student",)

    def prepare_batch(self, batch: Batch, keys: Tensor, law: Law) -> Batch:
        """Return the batch after operations on all of it, such as re-pairing; never in place.

        It is called on the CPU, by a thread, some steps ahead; its random numbers are those of `keys`.
        `law` is that of the noise that the student's samples start from, and of the noise that is added here.
        """
        return batch

    def loss(self, nets: Nets, batch: Batch, network: str, progress: float, keys: Tensor) -> Tensor:
        """Return the loss of each sample, (n,), to update `network`; progress runs from 0 to 1.

        Each loss depends only on the sample and its key, not on the other samples of the batch.
        """
        raise NotImplementedError


def real_batch(batch: Batch) -> Batch:
    """Return the real data (n, *shape) that a method needs beside its stream, and what it is conditioned on.

    A stage that supplies it trains a method of the stream "noise" on data, and adds that of other samples to
    batches of others.
    """
    beside = {name.removeprefix(REAL): tensor for name, tensor in batch.items() if name.startswith(REAL)}
    return beside or batch


def conditions_of(config: ModelConfig, batch: Batch) -> Batch:
    """Return the fields of the batch that a model with this config is conditioned on.

    Raises:
        UserError: if the batch lacks one of the model's conditions, or has it in another shape.
    """
    if config.classes and "label" not in batch:
        raise UserError(f"the model has {config.classes} classes, but its training data has no labels")
    must_be_given(config.conditions, batch, by="the training data")
    return {name: batch[name] for name in config.condition_names}
