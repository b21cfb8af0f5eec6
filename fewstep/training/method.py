"""Method: what a file of fewstep.methods defines, and Needs: what it asks of the stage that runs it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from fewstep.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from fewstep.model import Model, ModelConfig

Batch = dict[str, "Tensor"]
Nets = Mapping[str, Any]  # modules by name; the "student" and the "teacher" are fewstep.model.Model


@dataclass
class Net:
    """One of the networks that a method trains or consults."""

    module: nn.Module
    trains: bool = True
    """Whether it is ever updated; one that never is stays frozen, and in evaluation mode."""
    ema: bool = False
    """Whether a moving average of its weights is kept."""
    learning_rate: float = 1.0
    """Its learning rate as a multiple of the loop's."""


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What a method needs beside the student. Stages read this and never compare a method's name.

    A stage refuses, before any work, a method that learns from another stream or needs something that the
    stage can't supply. No stage supplies `data`, `features`, `averages` or `second_time` yet.
    """

    stream: Literal["data", "pairs", "trajectories", "noise"]
    """What a batch holds; see Method."""
    all_states: bool = False
    """Of trajectories: all stored states and their times, not only those at the student's timesteps."""
    teacher: bool = False
    """The model "teacher", which `networks` loads."""
    score: bool = False
    """Scores of the teacher: it must have learned from noise drawn independently of the data."""
    conditions: bool = False
    """A model with classes, and so labels in every batch."""
    data: bool = False
    """Real data beside the stream."""
    features: bool = False
    """A feature net for its loss."""
    averages: bool = False
    """Moving averages of other decays than the loop's."""
    second_time: bool = False
    """A network that takes a second time, such as where a step ends."""

    def unmet(self, supplied: Collection[str]) -> list[str]:
        """Return what is needed beside the stream but not among what is supplied, by name."""
        asked = [field.name for field in fields(self) if field.name != "stream" and getattr(self, field.name)]
        return [name for name in asked if name not in supplied]


@dataclass(frozen=True, kw_only=True)
class Method:
    """A way to train a student; the fields of a subclass are its options.

    A batch is a dictionary of tensors with the same first dimension n. What it holds depends on the stream
    that the method needs: "data" (data, and label if there are classes), "pairs" (noise, data, label),
    "trajectories" (states (n, steps + 1, *shape), label): the teacher's states at the student's timesteps;
    or "noise" (label alone). `keys`, int64 (n, 2), name its samples for fewstep.randomness.
    """

    trained_times: ClassVar[str] = "all"
    """"grid" if the student only learns the timesteps of its grid."""
    map_preserving: ClassVar[bool] = True
    """Whether the student is taught to make of each noise what its teacher makes of it."""

    @property
    def needs(self) -> Needs:
        """What it needs, by its options."""
        return Needs(stream="pairs")

    def networks(self, student: Model, load: Callable[[str], Model]) -> dict[str, Net]:
        """Return the networks by name, the student among them; `load` gives the "teacher".

        New networks are drawn from torch's own generator, which the loop seeds.

        Raises:
            UserError: if this method can't train such a student.
        """
        self.check_labels(bool(student.config.classes))
        return {"student": Net(student, ema=True)}

    def check_labels(self, labels: bool) -> None:
        """Refuse a student by whether it is given labels, which settings say before there is one.

        Raises:
            UserError: if this method can't train such a student.
        """
        if self.needs.conditions and not labels:
            raise UserError("it needs a model with classes")

    def no_score(self) -> str | None:
        """Say why a model that this method trained gives no scores, None if it does.

        It does if noise was drawn independently of the data: Tweedie's formula then holds. What is said
        follows the setting that names the method.
        """
        return f" learns from {self.needs.stream}, which tells none"

    def trained(self) -> dict[str, Any]:
        """Return what a student's ModelConfig says of how it was trained, whatever it started from."""
        return {"trained_times": self.trained_times, "map_preserving": self.map_preserving, "jitter": 0.0}

    def updates(self, step: int) -> tuple[str, ...]:
        """Return the names of the networks to update in this step, in order; each update has its own keys."""
        return ("student",)

    def prepare_batch(self, batch: Batch, keys: Tensor) -> Batch:
        """Return the batch after what needs all of it at once, such as re-pairing; never in place."""
        return batch

    def loss(self, nets: Nets, batch: Batch, network: str, progress: float, keys: Tensor) -> Tensor:
        """Return the loss of each sample, (n,), to update `network`; progress runs from 0 to 1.

        It depends on the sample and its key alone, not on the others of the batch.
        """
        raise NotImplementedError


def conditions_of(config: ModelConfig, batch: Batch) -> Batch:
    """Return what a model with this config is conditioned on, out of the batch.

    Raises:
        UserError: if the model has classes but the batch has no labels.
    """
    if not config.classes:
        return {}
    if "label" not in batch:
        raise UserError(f"the model has {config.classes} classes, but its training data carries no label")
    return {"label": batch["label"]}
