"""StateDict: weights in safetensors, and the network class of your own code that they are of."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from fewstep.conditions import check_shapes
from fewstep.errors import UserError
from fewstep.lazy import lazy_imports
from fewstep.models.imported import Imported

if TYPE_CHECKING:
    from fewstep.foreign.found import Found

with lazy_imports():
    from fewstep.foreign import found, weights


@dataclass(frozen=True, kw_only=True)
class StateDict:
    """Settings of the format; the first three are those of fewstep.models.imported.

    Raises:
        UserError: see fewstep.models.imported.Imported.
    """

    marks: ClassVar[tuple[str, ...]] = ()

    network: str
    """The network, module:Class of a file in the checkout."""
    options: dict[str, Any] = field(default_factory=dict)
    """The arguments of the class."""
    adapter: str = "x_t"
    """How it is called: x_t as SiT and DiT, t_x as torchcfm, edm as EDM."""
    labels: int = 0
    """Rows of its table of class labels, that of the null condition included; 0 for none."""
    null: bool = False
    """Whether the last of them is the null condition."""

    conditions: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """Name and shape of all else that it is conditioned on and takes by name; see fewstep.conditions."""

    guidance_input: bool = False
    """Whether it takes the scale of guidance by the name guidance, (batch,)."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "conditions", {name: tuple(s) for name, s in self.conditions.items()})
        check_shapes(self.conditions)
        Imported(network=self.network, options=self.options, adapter=self.adapter)
        if self.null and self.labels < 2:
            raise UserError(
                f"null needs labels of 2 or more, one of them the null condition; got {self.labels}"
            )

    def look(self, folder: Path) -> Found:
        """See Format.look."""
        architecture = {
            "name": "imported",
            "network": self.network,
            "options": self.options,
            "adapter": self.adapter,
        }
        described = found.Described(
            labels=self.labels,
            null=self.null,
            conditions=self.conditions,
            guidance_input=self.guidance_input,
        )
        return found.Found(architecture=architecture, files=weights.files_of(folder), described=described)
