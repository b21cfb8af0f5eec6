"""LoraDiffusers: a student's adapter in the names of diffusers, for its base."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from fewstep.exports._adapter import AdapterExport
from fewstep.lazy import lazy_imports

if TYPE_CHECKING:
    from torch import Tensor

    from fewstep.exporting.sampler import ExportedSampler

with lazy_imports():
    from fewstep.exporting import adapter_file, scheduled

WEIGHTS = "pytorch_lora_weights.safetensors"
LOAD = 'network.load_lora_adapter("{folder}", weight_name="{file}", prefix="{component}")'


@dataclass(frozen=True)
class LoraDiffusers(AdapterExport):
    """`<component>.<layer>.lora_A.weight`, which ComfyUI takes too, of transformers."""

    file: ClassVar[str] = "lora_diffusers"
    title: ClassVar[str] = "An adapter for diffusers"

    def write(self, sampler: ExportedSampler, file: Path, source: Path) -> None:
        """See Export.write."""
        adapter_file.must_be_possible(sampler, source)
        component = scheduled.component_of(sampler)
        named = {
            f"{component}.{layer}.lora_{which}.weight": tensor
            for layer, parts in adapter_file.weights(source).items()
            for which, tensor in parts.items()
        }
        adapter_file.write(sampler, file, WEIGHTS, named)

    def read(self, file: Path, source: Path) -> Callable[[dict[str, Tensor]], Tensor]:
        """See Export.read."""
        network = adapter_file.base(source)
        component = scheduled.component_named(type(network).__name__)
        network.load_lora_adapter(file, weight_name=WEIGHTS, prefix=component)
        return scheduled.reader(network.eval(), file)

    def call(self, sampler: ExportedSampler) -> str:
        """See Export.call."""
        load = LOAD.format(folder=self.file, file=WEIGHTS, component=scheduled.component_of(sampler))
        return adapter_file.call(sampler, self.file, load)
