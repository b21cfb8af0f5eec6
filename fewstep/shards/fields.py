"""The fields of a set: how each is stored, or drawn again when it is read, and what is read from it."""

from typing import Any, NotRequired, TypedDict

import torch
from torch import Tensor

from fewstep import noises
from fewstep.noises import GAUSSIAN, Law

DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "uint8": torch.uint8,
    "int64": torch.int64,
}


class NoiseSource(TypedDict):
    """Where a field comes from that isn't stored: it is noise, made again by `fewstep.randomness`."""

    stream: str
    seed: int
    first: int
    """Index in that stream of the set's sample number 0."""
    law: NotRequired[str | dict[str, Any]]
    """Of the noise, see fewstep.noises; left out if it is normal."""
    begins: list[float]
    """Its first numbers: one must notice if another version of numpy draws others."""


class Field(TypedDict):
    """How one tensor of a sample is stored."""

    dtype: str
    """A key of DTYPES."""
    shape: list[int]
    """Of one sample."""
    scale: NotRequired[float]
    """A uint8 field is read as scale * code + offset."""
    offset: NotRequired[float]
    drawn: NotRequired[NoiseSource]
    """Present in a field that isn't stored."""


def drawn(stream: str, seed: int, first: int, shape: tuple[int, ...], law: Law = GAUSSIAN) -> Field:
    """Return a field of noise that need not be stored.

    Args:
        stream: of `fewstep.randomness`.
        seed: names the noise too.
        first: index of the set's sample number 0; those of the others follow it.
        shape: of one sample.
        law: of the noise.
    """
    begins = law.draw(stream, torch.tensor([[seed, first]]), shape).flatten()[:4].tolist()
    source = NoiseSource(stream=stream, seed=seed, first=first, begins=begins)
    if law != GAUSSIAN:
        source["law"] = law.named()
    return Field(dtype="float32", shape=list(shape), drawn=source)


def draw(field: Field, numbers: Tensor) -> Tensor:
    """Return the noise (n, *shape) of the samples with these numbers in the set, int64 (n,)."""
    source = field["drawn"]
    keys = torch.stack([torch.full_like(numbers, source["seed"]), numbers + source["first"]], dim=1)
    return noises.get(source.get("law", "gaussian")).draw(source["stream"], keys, tuple(field["shape"]))


def is_drawn_as_ever(field: Field) -> bool:
    """Return whether noise is drawn here as it was where the set was made, but for rounding."""
    begins = torch.tensor(field["drawn"]["begins"])
    return torch.allclose(draw(field, torch.tensor([0])).flatten()[: len(begins)], begins, atol=1e-5)


def empty(fields: dict[str, Field], samples: int) -> dict[str, Tensor]:
    """Return room, (samples, *shape), for the fields that are stored, in their storage types."""
    return {
        name: torch.empty(samples, *field["shape"], dtype=DTYPES[field["dtype"]])
        for name, field in fields.items()
        if "drawn" not in field
    }


def count(tensors: dict[str, Tensor]) -> int:
    """Return the number of samples."""
    (samples,) = {len(tensor) for tensor in tensors.values()}
    return samples


def decode(stored: dict[str, Tensor], fields: dict[str, Field], numbers: Tensor) -> dict[str, Tensor]:
    """Return samples as one computes with them: float32, and int64 for labels.

    Args:
        stored: the stored fields, (n, *shape), in their storage types.
        fields: all fields.
        numbers: of these samples in the set, int64 (n,); they say what is drawn.
    """
    decoded = {}
    for name, field in fields.items():
        if "drawn" in field:
            decoded[name] = draw(field, numbers)
        elif field["dtype"] == "uint8":
            decoded[name] = stored[name].float().mul_(field["scale"]).add_(field["offset"])
        else:
            decoded[name] = stored[name].float() if stored[name].is_floating_point() else stored[name]
    return decoded
