"""Recipe: what a set of shards is made of and how it is cut, known before any of it is made."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from fewstep.errors import UserError
from fewstep.registry import unknown
from fewstep.shards.fields import Field
from fewstep.shards.index import VERSION, origin_of

SHARD_BYTES = 2**28  # of one file at most, since all of it is in memory while it is made
FLOATS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def in_one_shard(most: int, sample: Mapping[str, Tensor]) -> int:
    """Return how many samples one shard takes: `most`, but no more than SHARD_BYTES, and one at least.

    Args:
        most: How many are asked for.
        sample: The fields of a sample as they will be stored, (1, *shape).
    """
    size = sum(tensor.nbytes for tensor in sample.values())
    return max(1, min(most, SHARD_BYTES // max(1, size)))


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A set of samples to be made; equal recipes give equal bytes.

    Raises:
        UserError: if a count is below 1, or a storage type doesn't exist.
    """

    samples: int
    per_shard: int
    """Samples in one file, also the most work that a crash can lose."""
    facts: Mapping[str, Any]
    """What the samples are made of, as JSON values; kept in the index. Shards made for other facts are
    made again, so name everything that changes a sample."""
    dtypes: Mapping[str, str] = field(default_factory=dict)
    """Storage type of float fields that are not to take float32: float16 or bfloat16."""
    affine: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """(scale, offset) of uint8 fields, which are read as scale * code + offset."""
    drawn: Mapping[str, Field] = field(default_factory=dict)
    """Fields of noise that aren't stored but drawn again by whoever reads the set; see fields.drawn. What
    makes samples returns them all the same, and they must be what will be drawn."""

    def __post_init__(self) -> None:
        if self.samples < 1 or self.per_shard < 1:
            raise UserError(
                f"shards need at least one sample each, got total {self.samples} and per_shard "
                f"{self.per_shard}"
            )
        for dtype in self.dtypes.values():
            if dtype not in FLOATS:
                raise UserError(unknown("storage type", dtype, list(FLOATS)))

    @property
    def shards(self) -> int:
        """The number of shards."""
        return -(-self.samples // self.per_shard)

    def part(self, number: int) -> range:
        """Return the samples of shard `number`."""
        start = number * self.per_shard
        return range(start, min(start + self.per_shard, self.samples))

    @cached_property
    def digest(self) -> str:
        """The sha256 of all that decides a sample."""
        names = ("facts", "dtypes", "affine", "drawn")
        recipe = {name: getattr(self, name) for name in names} | {"version": VERSION}
        return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()

    def origin(self, number: int) -> str:
        """Return what shard `number` is made of and which part it is; its records say so."""
        return origin_of(self.digest, self.part(number))
