"""Weights in safetensors, in one file or many: found, and copied into a network one tensor at a time."""

import math
from collections import Counter
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from fewstep.errors import UserError, and_others

WHOLE = "diffusion_pytorch_model.safetensors"
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".msgpack", ".h5")
REMEDY = "load the model where you trust it, and save it with save_pretrained or safetensors.torch.save_file"


def files_of(folder: Path) -> list[Path]:
    """Return the safetensors files of a folder.

    Raises:
        UserError: if it has none, or only pickled weights, which may run code when they are read.
    """
    if (whole := folder / WHOLE).exists():  # there may be variants in other types beside it
        return [whole]
    found = sorted(folder.glob("*.safetensors")) if folder.is_dir() else []
    if not found:
        pickled = sorted(file.name for file in folder.glob("*") if file.suffix in PICKLED)
        if pickled:
            raise UserError(
                f"{folder} has no weights but {pickled[0]}, which may run code when it is read; {REMEDY}"
            )
        raise UserError(f"{folder} has no weights: no file that ends in .safetensors; {REMEDY}")
    return found


def sizes(files: list[Path]) -> str:
    """Return how many numbers the weights in some files are, and of which types, from their headers alone.

    Raises:
        UserError: if a file is damaged.
    """
    numbers: Counter[str] = Counter()
    for file in files:
        try:
            with safe_open(file, "pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118 - it is no dictionary
                    tensor = tensors.get_slice(name)
                    numbers[tensor.get_dtype()] += math.prod(tensor.get_shape())
        except SafetensorError as error:
            raise UserError(f"{file} is damaged ({error})") from error
    return f"{numbers.total():,} numbers of type {' and '.join(sorted(numbers))}"


def shapes(files: list[Path]) -> dict[str, tuple[int, ...]]:
    """Return the shape of each weight in some files, by name, from their headers alone.

    Raises:
        UserError: if a file is damaged.
    """
    found: dict[str, tuple[int, ...]] = {}
    for file in files:
        try:
            with safe_open(file, "pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118 - it is no dictionary
                    found[name] = tuple(tensors.get_slice(name).get_shape())
        except SafetensorError as error:
            raise UserError(f"{file} is damaged ({error})") from error
    return found


def fill(network: nn.Module, files: list[Path]) -> None:
    """Copy weights into a network, in its type; all of its weights must be there, and no others.

    Raises:
        UserError: if a file is damaged, or names or shapes are not the network's, or a weight is not finite.
    """
    wanted = network.state_dict()
    missing = set(wanted)
    where: dict[str, Path] = {}
    for file in files:
        try:
            with safe_open(file, "pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118 - it is no dictionary
                    if name in where:
                        raise UserError(
                            f"{file} has {name}, as {where[name].name} has; leave one set of weights"
                        )
                    where[name] = file
                    missing.discard(name)
                    _copy(file, name, tensors.get_tensor(name), wanted)
        except SafetensorError as error:
            raise UserError(f"{file} is damaged ({error})") from error
    if missing:
        raise UserError(
            f"{files[0].parent} lacks {and_others(sorted(missing), 'weight')} of the network; the format's "
            "options describe another network than the weights, change them; or another version of the "
            "library wrote it, load it there and save it again"
        )


@torch.no_grad()
def _copy(file: Path, name: str, found: torch.Tensor, wanted: dict[str, torch.Tensor]) -> None:
    if name not in wanted or wanted[name].shape != found.shape:
        has = f"of shape {list(wanted[name].shape)}" if name in wanted else "none"
        raise UserError(
            f"{file}: {name} has shape {list(found.shape)}, the network has {has}; the format's options "
            "describe another network than the weights; change them"
        )
    if not torch.isfinite(found).all():
        raise UserError(f"{file}: {name} is not finite; take weights whose training did not diverge")
    wanted[name].copy_(found)
