"""The adapter of a student as a file that others load into its base, which they have."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewstep.errors import UserError
from fewstep.lazy import lazy_imports

if TYPE_CHECKING:
    from torch import Tensor

    from fewstep.exporting.sampler import ExportedSampler

with lazy_imports():
    from safetensors import torch as safetensors

    from fewstep import checkpoint, lora
    from fewstep.exporting import scheduled
    from fewstep.foreign import adapter, library

CALL = """\
base = "yours"  # the folder of the base's {component}
network = {network}.from_pretrained(base)
{load}
network.eval()"""


def must_be_possible(sampler: ExportedSampler, source: Path) -> None:
    """Refuse what is no adapter of a network into which diffusers loads adapters.

    Raises:
        UserError: saying what to take instead.
    """
    scheduled.must_be_possible(sampler)
    if checkpoint.load_config(source).lora is None:
        raise UserError(
            f"{source.name} was trained in all its weights and is no adapter; take the format diffusers, or "
            "train it with lora"
        )
    name = sampler.model.config.architecture["network"]
    if not hasattr(library.network_class(name), "load_lora_adapter"):
        raise UserError(f"diffusers loads no adapters into {name}; take the format diffusers, which adds it")


def weights(source: Path) -> dict[str, dict[str, Tensor]]:
    """Return "A" (rank, ...) and "B" (out, rank) of each layer, by the layer's name in its library.

    B has the factor alpha / rank in it, as not all readers know it.
    """
    settings = checkpoint.load_config(source).lora
    assert settings is not None
    found: dict[str, dict[str, Tensor]] = {}
    for name, tensor in safetensors.load_file(source / checkpoint.LORA).items():
        layer, _, which = name.removesuffix(".weight").rpartition(".lora_")
        scaled = tensor * (settings.alpha / settings.rank) if which == "B" else tensor
        found.setdefault(layer.removeprefix(adapter.PREFIX), {})[which] = scaled
    return found


def base(source: Path) -> Any:
    """Return the network whose weights the adapter is over."""
    return lora.without(checkpoint.load_model(source, merge=False)).network.network


def write(sampler: ExportedSampler, folder: Path, file: str, tensors: dict[str, Tensor]) -> None:
    """Write the adapter as a file of a new folder, and the scheduler beside it."""
    folder.mkdir()
    safetensors.save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / file)
    scheduled.write(sampler, folder)


def call(sampler: ExportedSampler, folder: str, load: str) -> str:
    """Return Python that loads the adapter into its base by the lines `load`, and samples."""
    network = sampler.model.config.architecture["network"]
    made = CALL.format(network=network, component=scheduled.component_of(sampler), load=load)
    return scheduled.call(sampler, folder, made)
