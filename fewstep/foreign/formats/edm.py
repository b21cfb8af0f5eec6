"""Edm: weights in safetensors of a preconditioned network of EDM or EDM2, whose class is in the checkout."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from fewstep.errors import UserError
from fewstep.lazy import lazy_imports
from fewstep.models.imported import Imported

if TYPE_CHECKING:
    from fewstep.foreign.found import Found

with lazy_imports():
    from fewstep.foreign import found, weights

NEEDED = ("img_resolution", "img_channels")


@dataclass(frozen=True, kw_only=True)
class Edm:
    """Settings of the format; Karras et al. 2022 (arXiv 2206.00364) and 2024 (arXiv 2312.02696).

    Such a network estimates the data from data + sigma noise: network(x, sigma, one-hot labels).

    Raises:
        UserError: see fewstep.models.imported.Imported; or if the options lack the size of an image, or
            there is a null condition without classes.
    """

    marks: ClassVar[tuple[str, ...]] = ("model.map_layer0.weight", "unet.emb_noise.weight")

    network: str
    """The network, module:Class of a file in the checkout, such as training.networks:EDMPrecond."""
    options: dict[str, Any] = field(default_factory=dict)
    """The arguments of the class, as the checkpoint's init_kwargs; of them img_resolution, img_channels and
    label_dim tell the shape of a sample and its classes."""
    null: bool = False
    """Whether labels were dropped in training, so that a row of zeros is the null condition of guidance."""
    sigma_min: float = 0.002
    """The least noise that it is sampled with."""
    sigma_max: float = 80.0
    """The noise that its samples start from."""

    def __post_init__(self) -> None:
        Imported(network=self.network, options=self.options, adapter="edm")
        for name in NEEDED:
            if type(size := self.options.get(name)) is not int or size < 1:
                raise UserError(f"edm: the options need {name}, a whole number from 1, got {size!r}")
        if type(self.labels) is not int or self.labels < self.null:
            raise UserError(f"edm: null needs classes, the option label_dim; got {self.labels!r}")

    @property
    def labels(self) -> Any:
        """How many classes it knows."""
        return self.options.get("label_dim") or 0

    def look(self, folder: Path) -> Found:
        """See Format.look."""
        side, channels = (self.options[name] for name in NEEDED)
        architecture = {"name": "imported", "network": self.network, "options": self.options}
        return found.Found(
            architecture=architecture | {"adapter": "edm"},
            files=weights.files_of(folder),
            described=found.Described(
                channels=channels, side=(side, side), labels=self.labels + self.null, null=self.null
            ),
            declared={
                "prediction": "data",
                "path": {"name": "ve", "sigma_min": self.sigma_min, "sigma_max": self.sigma_max},
                "time": "sigma",
                "time_scale": 1.0,
            },
        )
