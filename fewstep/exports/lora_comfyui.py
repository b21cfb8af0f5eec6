"""LoraComfyui: a student's adapter in the names that ComfyUI has for those of U-Nets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from fewstep.errors import UserError
from fewstep.exports._adapter import AdapterExport
from fewstep.lazy import lazy_imports

if TYPE_CHECKING:
    from torch import Tensor

    from fewstep.exporting.sampler import ExportedSampler

with lazy_imports():
    import torch
    from safetensors import torch as safetensors

    from fewstep.exporting import adapter_file, scheduled

WEIGHTS = "lora.safetensors"
PARTS = {"A": "lora_down", "B": "lora_up"}
LOAD = """\
# In ComfyUI: put {folder}/{file} into models/loras, load it into the base by LoraLoaderModelOnly with
# strength 1, and give the steps below by ManualSigmas, with cfg 1. Here diffusers gets it by the same names:
from safetensors.torch import load_file

layers = {{name.replace(".", "_"): name for name, _ in network.named_modules()}}
parts = {{"lora_down.weight": "lora_A.weight", "lora_up.weight": "lora_B.weight"}}
weights = {{}}
for key, weight in load_file("{folder}/{file}").items():
    layer, part = key.removeprefix("lora_unet_").split(".", 1)
    if part in parts:
        weights[f"unet.{{layers[layer]}}.{{parts[part]}}"] = weight
network.load_lora_adapter(weights, prefix="unet")"""


@dataclass(frozen=True)
class LoraComfyui(AdapterExport):
    """`lora_unet_<layer>.lora_down.weight`, `.lora_up.weight` and `.alpha`, with _ for . in the layer's name.

    ComfyUI looks for these names of each weight that diffusers' U-Nets have. Those of diffusers itself it
    does not know, of some layers.
    """

    file: ClassVar[str] = "lora_comfyui"
    title: ClassVar[str] = "An adapter for ComfyUI"

    def write(self, sampler: ExportedSampler, file: Path, source: Path) -> None:
        """See Export.write."""
        adapter_file.must_be_possible(sampler, source)
        if scheduled.component_of(sampler) != "unet":
            name = sampler.model.config.architecture["network"]
            raise UserError(
                f"ComfyUI takes adapters of {name} in the names of diffusers; take lora_diffusers"
            )
        named: dict[str, Tensor] = {}
        for layer, parts in adapter_file.weights(source).items():
            key = f"lora_unet_{layer.replace('.', '_')}"
            named |= {f"{key}.{PARTS[which]}.weight": tensor for which, tensor in parts.items()}
            named[f"{key}.alpha"] = torch.tensor(float(len(parts["A"])))  # the rank: no factor more
        adapter_file.write(sampler, file, WEIGHTS, named)

    def read(self, file: Path, source: Path) -> Callable[[dict[str, Tensor]], Tensor]:
        """See Export.read: diffusers samples, with the layers that ComfyUI would find by these names."""
        network = adapter_file.base(source)
        layers = {f"lora_unet_{name.replace('.', '_')}": name for name, _ in network.named_modules()}
        letters = {part: which for which, part in PARTS.items()}
        named = {}
        for key, tensor in safetensors.load_file(file / WEIGHTS).items():
            layer, part, *_ = key.split(".")
            if part != "alpha":
                named[f"unet.{layers[layer]}.lora_{letters[part]}.weight"] = tensor
        network.load_lora_adapter(named, prefix="unet")
        return scheduled.reader(network.eval(), file)

    def call(self, sampler: ExportedSampler) -> str:
        """See Export.call."""
        return adapter_file.call(sampler, self.file, LOAD.format(folder=self.file, file=WEIGHTS))
