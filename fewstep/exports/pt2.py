"""Pt2: an archive of torch.export, for PyTorch without fewstep."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from fewstep.exports import SHOWN, Export, given_in_torch
from fewstep.lazy import lazy_imports

if TYPE_CHECKING:
    from torch import Tensor

    from fewstep.exporting.sampler import ExportedSampler

with lazy_imports():
    import torch

CALL = """\
import torch

sampler = torch.export.load("{file}").module()
noise = torch.randn{size}
"""


@dataclass(frozen=True)
class Pt2(Export):
    """A graph in JSON and weights as raw numbers.

    torch.export.load would unpickle the example inputs of an archive, so this one has none.
    """

    file: ClassVar[str] = "sampler.pt2"
    title: ClassVar[str] = "PyTorch"

    def write(self, sampler: ExportedSampler, file: Path, source: Path) -> None:
        """See Export.write."""
        without_inputs = copy.copy(sampler.traced())
        without_inputs.example_inputs = None
        torch.export.save(without_inputs, file)

    def read(self, file: Path, source: Path) -> Callable[[dict[str, Tensor]], Tensor]:
        """See Export.read."""
        sampler = torch.export.load(file).module()
        return lambda inputs: sampler(inputs["noise"], **{n: inputs[n] for n in inputs if n != "noise"})

    def call(self, sampler: ExportedSampler) -> str:
        """See Export.call."""
        config = sampler.model.config
        size, given = (SHOWN, *config.shape), given_in_torch(config)
        lines = [f"{name} = {value}\n" for name, value in given.items()]
        named = "".join(f", {name}={name}" for name in given)
        return CALL.format(file=self.file, size=size) + "".join(lines) + f"samples = sampler(noise{named})\n"
