"""Formats in which a sampler leaves fewstep, one file each, found by its name.

A file writes a traced sampler for another library, reads it back with that library, and says how a user
calls it there. `fewstep.exporting` makes the sampler and compares what was read back with fewstep itself.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol

from fewstep import registry

if TYPE_CHECKING:
    from torch import Tensor
    from torch.export import ExportedProgram

    from fewstep.conditions import Shapes

registry.add_plugins(__name__, __path__)


class Export(Protocol):
    """What a file of this package defines."""

    file: ClassVar[str]
    """The name of the file in the exported folder."""
    title: ClassVar[str]
    """What the format is called, for headings."""

    def must_be_ready(self) -> None:
        """Refuse to start where a library is missing.

        Raises:
            UserError: naming the library and how to install it.
        """

    def write(self, program: ExportedProgram, file: Path) -> None:
        """Write a traced sampler, from noise (batch, *shape) and conditions by name to samples."""

    def read(self, file: Path) -> Callable[[dict[str, Tensor]], Tensor]:
        """Return a function from the named inputs to the samples, computed by the other library."""

    def call(self, size: tuple[int, ...], classes: int, conditions: Shapes) -> str:
        """Return Python, to be run in the folder, that makes `samples` of `size` (batch, *shape).

        Its inputs are the variables `noise`, `label` if there are classes, and each of the conditions.
        """
