"""Method: what a file of this package defines; every verb has a default."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from fewstep.errors import UserError

if TYPE_CHECKING:  # files of methods stay importable without torch, so that settings check in a blink
    from torch import Tensor, nn

    from fewstep.model import Model, ModelConfig

Batch = dict[str, "Tensor"]
Nets = Mapping[str, Any]  # modules by name; the "student" and the "teacher" are fewstep.model.Model


@dataclass
class Net:
    """One of the networks that a method trains or consults."""

    module: nn.Module
    trains: bool = True
    """Whether some turn updates it; one that never does is frozen, and in evaluation mode."""
    ema: bool = False
    """Whether a moving average of its weights is kept."""
    learning_rate: float = 1.0
    """Its learning rate as a multiple of the loop's."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """A way to train a student; the fields of a subclass are its options.

    A batch is a dictionary of tensors with the same first dimension n. What it holds depends on
    `stream`: "data" (data, and label if there are classes), "pairs" (noise, data, label), "timesteps"
    (states (n, steps + 1, *shape), label): the teacher's states at the student's timesteps; or "noise"
    (label alone). `keys`, int64 (n, 2), name its samples for fewstep.randomness.
    """

    stream: ClassVar[str] = "pairs"
    trained_times: ClassVar[str] = "all"
    """"grid" if the student only learns the timesteps of its grid."""
    map_preserving: ClassVar[bool] = True
    """Whether the student is taught to make of each noise what its teacher makes of it."""
    needs_score: ClassVar[bool] = False
    """Whether the teacher must give scores: it must have learned from noise drawn apart from the data."""

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

    def trained(self) -> dict[str, Any]:
        """Return what a student's ModelConfig says of how it was trained, whatever it started from."""
        return {"trained_times": self.trained_times, "map_preserving": self.map_preserving, "jitter": 0.0}

    def updates(self, step: int) -> tuple[str, ...]:
        """Return the names of the networks to update in this step, in order; each turn has its own keys."""
        return ("student",)

    def prepare(self, batch: Batch, keys: Tensor) -> Batch:
        """Return the batch after what needs all of it at once, such as re-pairing; never in place."""
        return batch

    def loss(self, nets: Nets, batch: Batch, turn: str, progress: float, keys: Tensor) -> Tensor:
        """Return the loss of each sample, (n,), for the network `turn`; progress runs from 0 to 1.

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
