"""The bytes of one shard: safetensors records in a plain tar file."""

import io
import json
import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
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
    for record in records_of(shard, first=first, origin=origin):
        rows = slice(row, row + record.samples)
        room = {name: tensor[rows] for name, tensor in stored.items()}
        if {name: (part.dtype, part.shape) for name, part in room.items()} != {
            name: (place.dtype, place.shape) for name, place in record.fields.items()
        }:
            raise ValueError("it has other fields, or more samples")
        for name, place in record.fields.items():
            if place.bytes != room[name].nbytes:
                raise ValueError(f"field {name!r} is not all there")
            _read(room[name].view(torch.uint8).numpy(), shard, place.start)
        row += record.samples
    if row != count(stored):
        raise ValueError(f"it has {row} samples, not {count(stored)}")


def fill_rows(
    stored: dict[str, Tensor], shard: BinaryIO, records: Sequence["Record"], numbers: np.ndarray
) -> None:
    """Read some samples of a shard straight into the memory of `stored`.

    Args:
        stored: some of the fields, dense tensors (n, *shape) in the types they are stored in.
        shard: what `pack` returned.
        records: what its headers say; see `records_of`.
        numbers: of the samples in the whole set, int64 (n,), increasing.

    Raises:
        ValueError: if the shard ends too early, or a field has another type or shape.
    """
    firsts = np.array([record.first for record in records])
    of = np.searchsorted(firsts, numbers, side="right") - 1
    goes_on = (np.diff(numbers) == 1) & (np.diff(of) == 0)
    starts = [0, *(np.flatnonzero(~goes_on) + 1).tolist()]
    runs = list(zip(starts, [*starts[1:], len(numbers)], of[starts].tolist(), strict=True))
    within = (numbers - firsts[of]).tolist()
    for name, tensor in stored.items():
        room = tensor.view(len(tensor), -1).view(torch.uint8).numpy()
        sample = room.shape[1]
        for record in [records[number] for number in set(of.tolist())]:
            place = record.fields[name]
            told = (place.dtype, place.shape[1:], place.bytes)
            if told != (tensor.dtype, tensor.shape[1:], sample * record.samples):
                raise ValueError(f"field {name!r} has another type or shape")
        for start, stop, number in runs:
            first = records[number].fields[name].start + within[start] * sample
            _read(room[start:stop], shard, first)


def records_of(shard: BinaryIO, *, first: int, origin: str) -> tuple["Record", ...]:
    """Return what the headers of a shard's records say; damage raises some Exception.

    Args:
        shard: what `pack` returned, and was given the same `first` and `origin`.
        first: number of the first sample.
        origin: see `pack`.
    """
    found, row = tuple(_scan(shard)), first
    for record in found:
        if (record.first, record.origin) != (row, origin):
            raise ValueError(f"the record of sample {record.first} is not of this shard, or has moved")
        row += record.samples
    return found


def origin_of(shard: BinaryIO) -> str:
    """Return the origin given to `pack`; damage raises some Exception."""
    return next(_scan(shard)).origin


@dataclass(frozen=True)
class FieldBytes:
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
    fields: dict[str, FieldBytes]


def _read(room: np.ndarray, shard: BinaryIO, start: int) -> None:
    """Fill dense memory with the bytes of a shard from `start` on."""
    shard.seek(start)
    if shard.readinto(room) != room.nbytes:  # type: ignore[attr-defined]
        raise ValueError("it ends before its samples do")


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
                fields[field] = FieldBytes(DTYPES[told["dtype"]], shape, data + start, stop - start)
            (samples,) = {place.shape[0] for place in fields.values()}
            yield Record(int(name[1]), samples, origin, fields)
