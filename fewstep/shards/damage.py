"""Whether the bytes of a shard are those that were written, and what became of them if not."""

import hashlib
import os
from typing import BinaryIO

from fewstep.errors import UserError
from fewstep.shards import records
from fewstep.shards.index import INDEX, ShardFile


class DamagedError(UserError):
    """A shard is missing, or not the one that was written."""


def problem_of(shard: BinaryIO, file: ShardFile, origin: str, *, digest: bool) -> str | None:
    """Say why a shard is not the one that the index tells of, or None.

    Args:
        shard: what was found under its name.
        file: what the index says of it.
        origin: what its records must say that they are.
        digest: whether to compare the sha256 too, which reads all of it.
    """
    if stranger := _stranger(shard, origin):
        return stranger
    size = shard.seek(0, os.SEEK_END)
    if size != file.bytes:
        return f"has {size} bytes, not {file.bytes}: it was {'cut' if size < file.bytes else 'altered'}"
    shard.seek(0)
    if digest and hashlib.file_digest(shard, "sha256").hexdigest() != file.sha256:  # type: ignore[arg-type]
        return f"was altered: its sha256 is not that in {INDEX}"
    return None


def _stranger(shard: BinaryIO, origin: str) -> str | None:
    """Say what a shard is if it was whole when it got this name, but is another one."""
    try:
        found = records.origin_of(shard)
        (recipe, part), (own_recipe, own_part) = found.split("/"), origin.split("/")
    except Exception:  # damaged: its size or digest says so
        return None
    if recipe != own_recipe:
        return "was made for other settings than the rest (another seed, model or split)"
    if part != own_part:
        return f"holds samples {part} of this set, not {own_part}: it is another shard, moved or copied"
    return None
