"""Write shards: each whole or not at all, those that an interrupted run finished are kept."""

import errno
import hashlib
import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fewstep._files import written_whole
from fewstep.errors import UserError
from fewstep.progress import SILENT, Progress
from fewstep.registry import unknown
from fewstep.shards import records
from fewstep.shards.fields import Field, check_drawn, count, describe
from fewstep.shards.index import INDEX, VERSION, ShardFile, shard_name
from fewstep.shards.read import Shards
from fewstep.shards.weights import check_weights

FLOATS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write_shards(
    folder: Path,
    total: int,
    per_shard: int,
    make: Callable[[int, int], dict[str, Tensor]],
    *,
    facts: dict[str, Any],
    dtypes: Mapping[str, str] | None = None,
    affine: Mapping[str, tuple[float, float]] | None = None,
    drawn: Mapping[str, Field] | None = None,
    progress: Progress = SILENT,
) -> Shards:
    """Write a set of samples as shards in `folder`, then its index; equal arguments give equal bytes.

    A shard that is already there is kept if it was written for the same facts and storage; everything
    else that an earlier call left in the folder is removed.

    Args:
        folder: made if missing.
        total: number of samples.
        per_shard: samples in one file, also the most work that a crash can lose.
        make: returns the fields, tensors (stop - start, *shape), of samples start <= index < stop; a
            function of those two numbers alone.
        facts: what the samples are made of, as JSON values; kept in the index. Shards made for other
            facts are made again, so name everything that changes a sample.
        dtypes: storage type of float fields that are not to take float32: float16 or bfloat16.
        affine: (scale, offset) of uint8 fields, which are read as scale * code + offset.
        drawn: fields of noise that aren't stored but drawn anew by whoever reads the set; see `drawn`.
            Make returns them all the same, and they must be what will be drawn.
        progress: told of the shards.

    Returns:
        The finished set.

    Raises:
        UserError: if a count is below 1, a storage type or the field it is for doesn't exist, a sample
            isn't finite once stored, a weight is negative, or the disk is full.
    """
    if total < 1 or per_shard < 1:
        raise UserError(f"shards need at least one sample each, got total {total} and per_shard {per_shard}")
    dtypes, affine, drawn = dict(dtypes or {}), dict(affine or {}), dict(drawn or {})
    for dtype in dtypes.values():
        if dtype not in FLOATS:
            raise UserError(unknown("storage type", dtype, list(FLOATS)))
    recipe = {"facts": facts, "dtypes": dtypes, "affine": affine, "drawn": drawn, "version": VERSION}
    digest = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()
    parts = [(start, min(start + per_shard, total)) for start in range(0, total, per_shard)]
    origins = [f"{digest}/{start}-{stop}" for start, stop in parts]

    folder.mkdir(parents=True, exist_ok=True)
    _clean(folder, keep={shard_name(number) for number in range(len(parts))})
    done: dict[int, ShardFile] = {}
    fields: dict[str, Field] = {}
    for number, (start, stop) in enumerate(parts):
        finished = _finished(folder / shard_name(number), stop - start, origins[number])
        if finished is not None:
            content, stored = finished
            done[number] = _entry(number, stop - start, content)
            fields = describe(stored, affine)

    progress.start("shards", len(parts), done=len(done), unit="shard")
    for number, (start, stop) in enumerate(parts):
        if number in done:
            continue
        samples = make(start, stop)
        for name, field in drawn.items():
            check_drawn(name, field, samples.pop(name), start)
        stored = _storable(samples, dtypes, start)
        check_weights(stored, start)
        made = describe(stored, affine)
        if strange := (dtypes.keys() | affine.keys()) - made.keys():
            raise UserError(unknown("field", min(strange), list(made)))
        assert count(stored) == stop - start, "make returned another number of samples"
        assert made == (fields or made), "make returned other fields than before"
        fields = made
        content = records.pack(stored, first=start, origin=origins[number])
        _write(folder / shard_name(number), content, missing=len(parts) - len(done))
        done[number] = _entry(number, stop - start, content)
        progress.advance()

    index = {
        "version": VERSION,
        "samples": total,
        "fields": fields | drawn,
        "shards": [vars(done[number]) for number in range(len(parts))],
        "facts": facts,
        "recipe": digest,
    }
    _write(folder / INDEX, (json.dumps(index, indent=1, sort_keys=True) + "\n").encode(), missing=1)
    return Shards(folder)


def _clean(folder: Path, keep: set[str]) -> None:
    """Remove the index (it means "complete"), temporaries, and shards of a larger set."""
    for path in [folder / INDEX, *folder.glob(f"{INDEX}.tmp"), *folder.glob("shard-*.tar*")]:
        if path.name not in keep:
            path.unlink(missing_ok=True)


def _finished(path: Path, samples: int, origin: str) -> tuple[bytes, dict[str, Tensor]] | None:
    """Return the content of a shard that need not be made again, and what it holds."""
    try:
        content = path.read_bytes()
        stored = records.unpack(io.BytesIO(content))
        whole = records.origin_of(io.BytesIO(content)) == origin and count(stored) == samples
    except Exception:  # missing or damaged in any way: it is made again
        return None
    return (content, stored) if whole else None


def _write(path: Path, content: bytes, missing: int) -> None:
    """Write one file; `missing` files of its size are still to come, itself included."""
    try:
        with written_whole(path) as temporary:
            temporary.write_bytes(content)
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise UserError(
            f"no room in {path.parent} for {path.name} of {len(content)} bytes ({error.strerror}); "
            f"{missing} such files are missing: free about {missing * len(content)} bytes and run it again, "
            "the finished ones are kept"
        ) from error


def _entry(number: int, samples: int, content: bytes) -> ShardFile:
    return ShardFile(shard_name(number), samples, len(content), hashlib.sha256(content).hexdigest())


def _storable(fields: dict[str, Tensor], dtypes: Mapping[str, str], first: int) -> dict[str, Tensor]:
    """Return the fields in their storage types; sample number `first` is their first."""
    stored = {}
    for name, tensor in fields.items():
        if tensor.is_floating_point():
            stored[name] = tensor.detach().cpu().to(FLOATS[dtypes.get(name, "float32")])
            bad = ~stored[name].isfinite().reshape(len(tensor), -1).all(1)
            if bad.any():
                raise UserError(
                    f"field {name!r} of sample {first + int(bad.nonzero()[0])} isn't finite when stored as "
                    f"{dtypes.get(name, 'float32')} ({int(bad.sum())} such samples in this shard); what "
                    "made it has diverged, or needs a wider storage type"
                )
        else:
            stored[name] = tensor.cpu() if tensor.dtype == torch.uint8 else tensor.cpu().long()
    return stored
