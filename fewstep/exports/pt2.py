"""Pt2: an archive of torch.export, for PyTorch without fewstep."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from etils.epy import lazy_imports

if TYPE_CHECKING:
    from torch import Tensor
    from torch.export import ExportedProgram

with lazy_imports():
    import torch

CALL = """\
import torch

sampler = torch.export.load("{file}").module()
noise = torch.randn{size}
"""


class Pt2:
    """A graph in JSON and weights as raw numbers.

    torch.export.load would unpickle the example inputs of an archive, so this one has none.
    """

    file: ClassVar[str] = "sampler.pt2"
    title: ClassVar[str] = "PyTorch"

    def must_be_ready(self) -> None:
        """See Export.must_be_ready; torch alone is needed."""

    def write(self, program: ExportedProgram, file: Path) -> None:
        """See Export.write."""
        without_inputs = copy.copy(program)
        without_inputs.example_inputs = None
        torch.export.save(without_inputs, file)

    def read(self, file: Path) -> Callable[[dict[str, Tensor]], Tensor]:
        """See Export.read."""
        sampler = torch.export.load(file).module()
        return lambda inputs: sampler(*inputs.values())

    def call(self, size: tuple[int, ...], classes: int) -> str:
        """See Export.call."""
        made = CALL.format(file=self.file, size=size)
        if not classes:
            return made + "samples = sampler(noise)\n"
        return made + f"label = torch.arange({size[0]}) % {classes}\nsamples = sampler(noise, label)\n"
