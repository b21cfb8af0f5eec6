"""Flow matching: train the velocity from noise to data (Lipman et al. 2023, Liu et al. 2022)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from fewstep import registry
from fewstep.errors import UserError
from fewstep.methods._regression import PathRegression
from fewstep.training.distances import l2
from fewstep.training.method import Batch, Needs, Nets

if TYPE_CHECKING:
    from torch import Tensor

    from fewstep.noises import Law


@dataclass(frozen=True, kw_only=True)
class FlowMatching(PathRegression):
    """Pretraining on data alone; its optimum is the marginal velocity of the coupling.

    Source: Liu et al. 2022 (arXiv 2209.03003), eq. 1, and Lipman et al. 2023 (arXiv 2210.02747);
    with couplings inside the batch, Tong et al. 2024 (arXiv 2302.00482). On other paths and
    predictions this is the training of diffusion models.
    """

    times: str = "uniform"
    coupling: str = "independent"
    """How noise and data are paired within a batch: a file of fewstep.couplings."""
    antithetic: bool = False
    """Whether the loss of a sample is the mean over its noise and minus that, at the same time, as in Albergo
    et al. 2023 (arXiv 2303.08797): two network calls a sample. Near the data both noises cancel in the
    gradient, whose variance has no bound without that, where a path with gamma is learned by its velocity."""

    def __post_init__(self) -> None:
        super().__post_init__()
        registry.find("fewstep.couplings", self.coupling)
        if self.antithetic and not self.independent_noise:
            raise UserError(
                f"antithetic noise is not paired with data, but coupling {self.coupling} pairs it; set "
                "coupling to independent, or antithetic to false"
            )

    @property
    def needs(self) -> Needs:
        """See Method.needs."""
        return replace(super().needs, stream="data")

    def check_labels(self, labels: bool) -> None:
        """See Method.check_labels."""
        super().check_labels(labels)
        if labels and not registry.find("fewstep.couplings", self.coupling).suits_labels:
            raise UserError(
                f"coupling {self.coupling} is for models without classes: the noise that it pairs with one "
                "label is not standard normal, but samples start from such noise; use coupling independent"
            )

    @property
    def independent_noise(self) -> bool:
        """See Method.independent_noise."""
        return self.coupling == "independent"

    @property
    def velocity_loss(self) -> bool:
        """See Method.velocity_loss."""
        return self.times == "uniform" and not self.label_dropout

    def no_score(self) -> str | None:
        """See Method.no_score."""
        if self.independent_noise:
            return None
        return f".coupling {self.coupling} pairs noise with data, and gives no scores; set it to independent"

    def trained(self) -> dict[str, Any]:
        """See Method.trained."""
        return super().trained() | {"learned_from": None if self.independent_noise else "coupled"}

    def prepare_batch(self, batch: Batch, keys: Tensor, law: Law) -> Batch:
        """Return the batch with a noise for each sample."""
        data = batch["data"]
        noise = law.draw("train.noise", keys, tuple(data.shape[1:]))
        return {**batch, "noise": self._pairs.pair(noise, data)}

    @cached_property
    def _pairs(self) -> Any:
        return registry.find("fewstep.couplings", self.coupling)()

    def loss(self, nets: Nets, batch: Batch, network: str, progress: float, keys: Tensor) -> Tensor:
        """See Method.loss."""
        student = nets["student"]
        losses = l2(self.errors(student, batch, keys).prediction)
        if not self.antithetic:
            return losses
        opposite = batch | {"noise": -batch["noise"]}
        return (losses + l2(self.errors(student, opposite, keys).prediction)) / 2
