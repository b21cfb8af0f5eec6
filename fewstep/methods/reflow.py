"""Reflow: train again on the flow's own pairs. Their lines rarely cross, so the new flow is straighter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from fewstep import randomness
from fewstep.errors import UserError
from fewstep.methods._features import check_features, feature_distance, loaded_features
from fewstep.methods._regression import PathRegression
from fewstep.noises import must_be_normal
from fewstep.registry import unknown
from fewstep.training.distances import DISTANCES, check_distance
from fewstep.training.method import Batch, Needs, Net, Nets

if TYPE_CHECKING:
    from torch import Tensor

    from fewstep.model import Model
    from fewstep.noises import Law

COMPARED = ("prediction", "data")
GROWTHS = ("none", "near_data")
LEAST_NOISE = 1e-5  # part of noise that a weight is divided by, as in the code of Lee et al. 2024


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
    """l2, huber, huber_each, which is huber of single values, or pseudo_huber."""
    compare: str = "prediction"
    """What is compared: the prediction, or the data that it stands for. Then errors near the noise count
    more, and those near the data less."""

    feature_weight: float = 0.0
    """Weight of the squared distance in features between the data that a prediction stands for and that of
    the pair. `distance` is then weighted by t, canonical, so that features alone count near the noise; Lee et
    al. 2024 with LPIPS."""
    feature_net: str = "monitor"
    """Whose features: of the net that monitors look at, or of efficientnet_lite0, for colour images of 16
    pixels a side or more, where it measures no results."""
    feature_growth: str = "none"
    """none, or near_data: the weight is then divided by 1 - t."""
    anneal: float = 0.0
    """Share of the training in which fresh noise gives way to that of the pairs: it begins as on random pairs
    of noise and the teacher's samples, which suits a student that starts from scratch."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_distance(self.distance)
        if self.compare not in COMPARED:
            raise UserError(unknown("compare", self.compare, list(COMPARED)))
        check_features(self.feature_weight, self.feature_net)
        if self.feature_growth not in GROWTHS:
            raise UserError(unknown("feature_growth", self.feature_growth, list(GROWTHS)))
        if self.feature_growth != "none" and not self.feature_weight:
            raise UserError(
                "feature_growth needs a feature_weight above 0; set one, or set feature_growth to none"
            )
        if not 0 <= self.anneal <= 1:
            raise UserError(f"anneal is a share of the training from 0 to 1, got {self.anneal}")

    @property
    def needs(self) -> Needs:
        """See Method.needs."""
        return replace(super().needs, features=self.feature_net if self.feature_weight else None)

    def networks(self, student: Model, load: Callable[[str], Any]) -> dict[str, Net]:
        """See Method.networks."""
        return super().networks(student, load) | (loaded_features(load) if self.feature_weight else {})

    def check_noise(self, law: Law) -> None:
        """See Method.check_noise."""
        super().check_noise(law)
        if self.anneal:
            must_be_normal(law, what="annealing, which adds two noises to one of the same law,")

    def loss(self, nets: Nets, batch: Batch, network: str, progress: float, keys: Tensor) -> Tensor:
        """See Method.loss."""
        if self.anneal:
            batch = batch | {"noise": annealed(batch["noise"], max(0.0, 1 - progress / self.anneal), keys)}
        errors = self.errors(nets["student"], batch, keys)
        losses = DISTANCES[self.distance](errors.data if self.compare == "data" else errors.prediction)
        if not self.feature_weight:
            return losses
        seen = feature_distance(nets["features"], batch["data"] + errors.data, batch["data"])
        if self.feature_growth == "near_data":
            seen = seen / errors.noisiness.clamp(min=LEAST_NOISE)
        return (1 - errors.noisiness) * losses + self.feature_weight * seen


def annealed(noise: Tensor, fresh: float, keys: Tensor) -> Tensor:
    """Return sqrt(1 - b^2) noise + b noise', (n, *shape), b the share `fresh`: standard normal for every b.

    Annealing reflow, Zhu et al. 2024 (arXiv 2407.12718): b falls from 1 (independent noise) to 0 (pairs).
    """
    other = randomness.noises("train.anneal.noise", keys, tuple(noise.shape[1:])).to(noise)
    return (1 - fresh**2) ** 0.5 * noise + fresh * other
