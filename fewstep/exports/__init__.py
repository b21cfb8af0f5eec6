"""Formats in which a sampler leaves fewstep, one file each, found by its name.

A file writes a sampler for another library, reads it back with that library, and says how a user calls it
there. `fewstep.exporting` makes the sampler and compares what was read back with fewstep itself.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from fewstep import registry

if TYPE_CHECKING:
    from torch import Tensor

    from fewstep.exporting.sampler import ExportedSampler
    from fewstep.model import ModelConfig

registry.add_plugins(__name__, __path__)

SCHEDULED = {
    "linear": {"reverse_velocity": "flow_prediction"},
    "table": {"noise": "epsilon", "v": "v_prediction"},
    "edm": {"reverse_v": "epsilon", "v": "v_prediction"},
}
"""Paths on which a scheduler of diffusers takes steps, and its names of the predictions that it takes."""
SHOWN = 16
"""Samples that the call in a README makes."""


def given_in_torch(config: ModelConfig) -> dict[str, str]:
    """Return a line of Python's torch for each condition of a model, by name, for the call in a README."""
    given = {"label": f"torch.arange({SHOWN}) % {config.classes}"} if config.classes else {}
    shapes = config.conditions.items()
    return given | {name: f"torch.zeros{(SHOWN, *shape)}  # yours" for name, shape in shapes}


class Export:
    """A file of this package defines one, a frozen dataclass; its fields are the format's options."""

    file: ClassVar[str]
    """The name of the file, or of a folder, in the exported folder."""
    title: ClassVar[str]
    """What the format is called, for headings."""
    libraries: ClassVar[tuple[str, ...]] = ()
    """What it needs beside torch."""
    extra: ClassVar[str] = ""
    """The extra of fewstep that brings them."""
    by_schedulers: ClassVar[bool] = False
    """Whether a scheduler of diffusers takes the steps, of a network of diffusers."""
    of_adapters: ClassVar[bool] = False
    """Whether it holds an adapter alone."""

    def paths(self) -> dict[str, str]:
        """Return the folders of the user's that it reads, by a name for each."""
        return {}

    def write(self, sampler: ExportedSampler, file: Path, source: Path) -> None:
        """Write a sampler, from noise (batch, *shape) and conditions by name to samples.

        Args:
            sampler: Of the model in `source`.
            file: Gets it.
            source: The model directory.

        Raises:
            UserError: if the format can't hold it; the message says what to take instead.
        """
        raise NotImplementedError

    def read(self, file: Path, source: Path) -> Callable[[dict[str, Tensor]], Tensor]:
        """Return a function from the named inputs to the samples, computed by the other library."""
        raise NotImplementedError

    def call(self, sampler: ExportedSampler) -> str:
        """Return Python, to be run in the folder, that makes 16 `samples` (batch, *shape).

        Its inputs are the variables `noise`, `label` if there are classes, and each of the conditions.
        """
        raise NotImplementedError


def lacks(name: str, export: Export) -> str | None:
    """Say which library of a format is not installed, None if all are; nothing is imported."""
    for library in export.libraries:
        if importlib.util.find_spec(library) is None:
            return f"the format {name} needs {library}: pip install 'fewstep[{export.extra}]'"
    return None
