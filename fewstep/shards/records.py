"""The bytes of one shard: safetensors records in a plain tar file."""

import io
import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import safetensors.torch
import torch
from torch import Tensor
from webdataset.writer import TarWriter

from fewstep.shards.fields import count

RECORD_SAMPLES = 256
NAME = re.compile(r"(\d{8,})\.safetensors")
DTYPES = {  # by safetensors' names
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "U8": torch.uint8,
    "I64": torch.int64,
}


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


def fill(stored: dict[str, Tensor], shard: BinaryIO, *, first: int, origin: str) -> None:
    """Read a shard straight into the memory of `stored`; safetensors' own reader would copy thrice.

    Args:
        stored: all fields, dense tensors (n, *shape) in the types they are stored in.
        shard: what `pack` returned, and was given the same `first` and `origin`.
        first: number of the first sample.
        origin: see `pack`.

    Raises:
        ValueError: if the shard holds anything else; other damage raises other Exceptions.
    """
    row = 0
    for record in _scan(shard):
        if (record.first, record.origin) != (first + row, origin):
            raise ValueError(f"the record of sample {record.first} is not of this shard, or has moved")
        rows = slice(row, row + record.samples)
        room = {name: tensor[rows] for name, tensor in stored.items()}
        if {name: (part.dtype, part.shape) for name, part in room.items()} != {
            name: (place.dtype, place.shape) for name, place in record.fields.items()
        }:
            raise ValueError("it has other fields, or more samples")
        for name, place in record.fields.items():
            shard.seek(place.start)
            target = room[name].view(torch.uint8).numpy()
            if place.bytes != target.nbytes or shard.readinto(target) != target.nbytes:  # type: ignore[attr-defined]
                raise ValueError(f"field {name!r} is not all there")
        row += record.samples
    if row != count(stored):
        raise ValueError(f"it has {row} samples, not {count(stored)}")


def origin_of(shard: BinaryIO) -> str:
    """Return the origin given to `pack`; damage raises some Exception."""
    return next(_scan(shard)).origin


@dataclass(frozen=True)
class Place:
    """Where in a shard the bytes of one field of one record are."""

    dtype: torch.dtype
    shape: torch.Size
    start: int
    bytes: int


@dataclass(frozen=True)
class Record:
    """What the header of a record says."""

    first: int
    samples: int
    origin: str
    fields: dict[str, Place]


def _scan(shard: BinaryIO) -> Iterator[Record]:
    """Read the headers of all records; nothing is ever extracted, whatever the archive names."""
    shard.seek(0)
    with tarfile.open(fileobj=shard, mode="r:") as tar:  # "r:", for a compressed one could be of any size
        for member in tar:
            name = NAME.fullmatch(member.name)
            if name is None or member.type != tarfile.REGTYPE or member.sparse is not None:
                raise ValueError(f"its member {member.name!r} is no record of samples")
            shard.seek(member.offset_data)
            length = int.from_bytes(shard.read(8), "little")
            if length > member.size:
                raise ValueError(f"its member {member.name!r} is damaged")
            header = json.loads(shard.read(length))
            origin = header.pop("__metadata__")["origin"]
            data, fields = member.offset_data + 8 + length, {}
            spans = sorted(told["data_offsets"] for told in header.values())
            if [0, *(stop for _, stop in spans)] != [
                *(start for start, _ in spans),
                member.size - 8 - length,
            ]:
                raise ValueError(f"the fields of its member {member.name!r} overlap or leave gaps")
            for field, told in header.items():
                start, stop = told["data_offsets"]
                shape = torch.Size(told["shape"])
                fields[field] = Place(DTYPES[told["dtype"]], shape, data + start, stop - start)
            (samples,) = {place.shape[0] for place in fields.values()}
            yield Record(int(name[1]), samples, origin, fields)
