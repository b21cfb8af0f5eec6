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

    from fewstep.conditions import Shapes

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
        return lambda inputs: sampler(inputs["noise"], **{n: inputs[n] for n in inputs if n != "noise"})

    def call(self, size: tuple[int, ...], classes: int, conditions: Shapes) -> str:
        """See Export.call."""
        given = {"label": f"torch.arange({size[0]}) % {classes}"} if classes else {}
        given |= {name: f"torch.zeros{(size[0], *shape)}  # yours" for name, shape in conditions.items()}
        lines = [f"{name} = {value}\n" for name, value in given.items()]
        named = "".join(f", {name}={name}" for name in given)
        return CALL.format(file=self.file, size=size) + "".join(lines) + f"samples = sampler(noise{named})\n"
