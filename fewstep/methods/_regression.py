"""PathRegression: regression at points of a path, the base of flow matching and reflow."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from fewstep import paths, predictions
from fewstep.flow import as_state
from fewstep.methods._hidden_conditions import check_dropout, check_droppable, hidden_of, hide
from fewstep.methods._times import check_law, draw_times
from fewstep.training.method import Batch, Method, Needs, conditions_of

if TYPE_CHECKING:
    from torch import Tensor

    from fewstep.model import Model


@dataclass(frozen=True)
class Errors:
    """How far a model's outputs are from what they should be, at points of paths."""

    output: Tensor  # (n, *shape)
    meaning: str  # a row of fewstep.predictions.PARTS
    c: paths.Coefficients

    @property
    def prediction(self) -> Tensor:
        """Of what is predicted, (n, *shape); of a score times b."""
        return paths.like(self.c.b, self.output) * self.output if self.meaning == "score" else self.output

    @property
    def data(self) -> Tensor:
        """Of the data that the prediction stands for, (n, *shape)."""
        share = self.c.b / predictions.determinant(self.meaning, self.c)
        return -paths.like(share, self.output) * self.output

    @property
    def noisiness(self) -> Tensor:
        """The part of noise in the points, b / (a + b), (n,): 1 - t in canonical time."""
        return self.c.b / (self.c.a + self.c.b)


@dataclass(frozen=True, kw_only=True)
class PathRegression(Method):
    """Regress the model's prediction at a random point of its own path from noise to data.

    The loss is the error of the prediction itself: of the velocity for a model that predicts
    velocity, of the noise for one that predicts noise. Only a score, which grows as 1 / b, is
    compared as b times the score (Song et al. 2021, arXiv 2011.13456, eq. 7).
    """

    times: str
    """Law of the training times, over the model's own time: uniform, logit_normal or u_shaped; or edm, normal
    logarithms of noise levels (Karras et al. 2022), the same on any path."""
    label_dropout: float = 0.0
    """Share of samples whose conditions, the label and all others, are dropped, so that guidance can be used
    later."""

    def __post_init__(self) -> None:
        check_law(self.times)
        check_dropout(self.label_dropout)

    @property
    def needs(self) -> Needs:
        """See Method.needs."""
        return replace(super().needs, conditions=self.label_dropout > 0)

    def check_labels(self, labels: bool) -> None:
        """See Method.check_labels."""
        check_droppable(self.label_dropout, labels)

    def trained(self) -> dict[str, Any]:
        """See Method.trained; what learns at all times may be sampled on any grid, and clamps no step."""
        return super().trained() | {"guidable": self.label_dropout > 0, "in_range": False}

    def errors(self, student: Model, batch: Batch, keys: Tensor) -> Errors:
        """Return the student's errors at one point of each sample's path.

        Args:
            student: The model.
            batch: Noise and data, and labels if it has classes.
            keys: Of the samples.
        """
        noise, data = batch["noise"], batch["data"]
        path = paths.get(student.config.path)
        t = as_state(draw_times(self.times, student.config, keys).to(data))
        point = path.sample(noise, data, t)
        target = predictions.express(student.config.prediction, data, noise, point.c)
        output = student(point.x, t, **self._conditions(student, batch, keys))
        return Errors(output - target, student.config.prediction, point.c)

    def _conditions(self, student: Model, batch: Batch, keys: Tensor) -> Batch:
        conditions = conditions_of(student.config, batch)
        if not self.label_dropout:
            return conditions
        return hide(student, conditions, hidden_of(self.label_dropout, keys))
