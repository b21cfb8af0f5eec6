"""The bytes of one shard: safetensors records in a plain tar file, and the fields they hold."""

import io
import json
from collections.abc import Iterator, Mapping
from typing import NotRequired, TypedDict

import safetensors.torch
import torch
from torch import Tensor
from webdataset.tariterators import tar_file_iterator
from webdataset.writer import TarWriter

RECORD_SAMPLES = 256


class Field(TypedDict):
    """How one tensor of a sample is stored."""

    dtype: str
    """"float32", "float16", "bfloat16", "uint8" or "int64"."""
    shape: list[int]
    """Of one sample."""
    scale: NotRequired[float]
    """A uint8 field is read as scale * code + offset."""
    offset: NotRequired[float]


def pack(stored: dict[str, Tensor], *, first: int, origin: str) -> bytes:
    """Return the shard that holds `stored`, tensors (n, *shape); equal arguments give equal bytes.

    Args:
        stored: the fields, in the types they are stored in.
        first: number of the shard's first sample in the whole set; it names the records.
        origin: what the shard is made of and which part it is; `origin_of` finds it again.
    """
    stream = io.BytesIO()
    with TarWriter(stream, mtime=0, encoder=False) as tar:
        for start in range(0, count(stored), RECORD_SAMPLES):
            chunk = slice(start, start + RECORD_SAMPLES)
            # safetensors wants memory that is dense, in order and not shared between fields.
            part = {name: t[chunk].clone(memory_format=torch.contiguous_format) for name, t in stored.items()}
            # One metadata key: with two or more, safetensors writes them in random order.
            record = safetensors.torch.save(part, metadata={"origin": origin})
            tar.write({"__key__": f"{first + start:08d}", "safetensors": record})
    return stream.getvalue()


def unpack(content: bytes) -> dict[str, Tensor]:
    """Return the fields, (n, *shape), in the types they are stored in; damage raises some Exception."""
    parts = [safetensors.torch.load(record) for record in _records(content)]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def origin_of(content: bytes) -> str:
    """Return the origin given to `pack`; damage raises some Exception."""
    record = next(_records(content))
    header = json.loads(record[8 : 8 + int.from_bytes(record[:8], "little")])
    return header["__metadata__"]["origin"]


def _records(content: bytes) -> Iterator[bytes]:
    return (member["data"] for member in tar_file_iterator(io.BytesIO(content)))


def count(fields: dict[str, Tensor]) -> int:
    """Return the number of samples."""
    (samples,) = {len(tensor) for tensor in fields.values()}
    return samples


def describe(stored: dict[str, Tensor], affine: Mapping[str, tuple[float, float]]) -> dict[str, Field]:
    """Return the fields of `stored`; `affine` gives (scale, offset) of the uint8 ones."""
    fields = {}
    for name, tensor in sorted(stored.items()):
        field = Field(dtype=str(tensor.dtype).removeprefix("torch."), shape=list(tensor.shape[1:]))
        if tensor.dtype == torch.uint8:
            field["scale"], field["offset"] = map(float, affine.get(name, (1, 0)))
        fields[name] = field
    return fields


def decode(stored: dict[str, Tensor], fields: dict[str, Field]) -> dict[str, Tensor]:
    """Return the samples as one computes with them: float32, and int64 for labels."""
    decoded = {}
    for name, tensor in stored.items():
        field = fields[name]
        if tensor.dtype == torch.uint8:
            decoded[name] = tensor.float().mul_(field["scale"]).add_(field["offset"])
        else:
            decoded[name] = tensor.float() if tensor.is_floating_point() else tensor
    return decoded
