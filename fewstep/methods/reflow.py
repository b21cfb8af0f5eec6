"""Reflow: train again on the flow's own pairs. Their lines rarely cross, so the new flow is straighter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fewstep import randomness
from fewstep.errors import UserError
from fewstep.methods._distances import DISTANCES, check_distance
from fewstep.methods._regression import PathRegression
from fewstep.noises import must_be_normal
from fewstep.registry import unknown
from fewstep.training.method import Batch, Nets

if TYPE_CHECKING:
    from torch import Tensor

    from fewstep.noises import Law

COMPARED = ("prediction", "data")


@dataclass(frozen=True, kw_only=True)
class Reflow(PathRegression):
    """Regression on pairs of noise and the data that a teacher made from it.

    Source: Liu et al. 2022 (arXiv 2209.03003), section 2.2; times and Huber distance from Lee et
    al. 2024 (arXiv 2405.20320). The student keeps its own path and prediction: on any path, the
    points between one noise and its data are a straight line in canonical coordinates, and it is
    the pairs that straighten (Wang et al. 2024, arXiv 2410.07303). The loss of that paper's code is
    `compare: data` with `distance: huber_each`.
    """

    times: str = "u_shaped"
    distance: str = "l2"
    """l2, huber, or huber_each, which is huber of single values."""
    compare: str = "prediction"
    """What is compared: the prediction, or the data that it stands for. Then errors near the noise count
    more, and those near the data less."""

    anneal: float = 0.0
    """Share of the training in which fresh noise gives way to that of the pairs: it begins as on random pairs
    of noise and the teacher's samples, which suits a student that starts from scratch."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_distance(self.distance)
        if self.compare not in COMPARED:
            raise UserError(unknown("compare", self.compare, list(COMPARED)))
        if not 0 <= self.anneal <= 1:
            raise UserError(f"anneal is a share of the training from 0 to 1, got {self.anneal}")

    def check_noise(self, law: Law) -> None:
        """See Method.check_noise."""
        super().check_noise(law)
        if self.anneal:
            must_be_normal(law, what="annealing, which adds two noises to one of the same law,")

    def loss(self, nets: Nets, batch: Batch, network: str, progress: float, keys: Tensor) -> Tensor:
        """See Method.loss."""
        if self.anneal:
            batch = batch | {"noise": annealed(batch["noise"], max(0.0, 1 - progress / self.anneal), keys)}
        return DISTANCES[self.distance](self.error(nets["student"], batch, keys, of=self.compare))


def annealed(noise: Tensor, fresh: float, keys: Tensor) -> Tensor:
    """Return sqrt(1 - b^2) noise + b noise', (n, *shape), b the share `fresh`: standard normal for every b.

    Annealing reflow, Zhu et al. 2024 (arXiv 2407.12718): b falls from 1 (independent noise) to 0 (pairs).
    """
    other = randomness.noises("train.anneal.noise", keys, tuple(noise.shape[1:])).to(noise)
    return (1 - fresh**2) ** 0.5 * noise + fresh * other
