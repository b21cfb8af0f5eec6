"""Couplings: which noise goes with which data.

The files of this package re-pair a training batch, each found by its name: a frozen dataclass whose
`pair(noise, data)` returns the noise in another order. `fewstep.pairs` makes pairs with a
trained model, and `fewstep.pairs.imported` reads those that another tool made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Protocol

from fewstep import registry

if TYPE_CHECKING:
    from torch import Tensor

registry.add_plugins(__name__, __path__)


class Coupling(Protocol):
    """What a file of this package defines."""

    suits_labels: ClassVar[bool]
    """Whether the noise that samples of one label get is standard normal still."""

    def pair(self, noise: Tensor, data: Tensor) -> Tensor:
        """Return `noise`, (n, *shape), in the order in which it goes with `data`, (n, *shape)."""
