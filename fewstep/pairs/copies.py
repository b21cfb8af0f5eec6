"""Copies: noises that occur more than once, found without keeping the noises."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b

import numpy as np

COMPARED = 65536  # digests that are kept to compare shards by, however many pairs there are


@dataclass(frozen=True)
class Copies:
    """How many samples are copies of another one; those of two shards are added with +.

    Within a shard all are compared. Across shards those are whose 64-bit digest falls in the first
    COMPARED / total part of its range: all of them if total is less, and else a sample that still finds
    two shards of n equal samples if n COMPARED / total is well above 1.
    """

    found: int
    """Copies, each further one counted."""
    digests: frozenset[int]
    """Of the samples that are compared across shards."""

    @classmethod
    def of(cls, samples: np.ndarray, *, total: int) -> Copies:
        """Return those of one shard, (n, *shape), of `total` samples in all."""
        rows = [row.tobytes() for row in np.ascontiguousarray(samples)]
        digests = {int.from_bytes(blake2b(row, digest_size=8).digest(), "big") for row in rows}
        kept = frozenset(digest for digest in digests if digest * total < COMPARED << 64)
        return cls(len(rows) - len(set(rows)), kept)

    def __add__(self, other: Copies) -> Copies:
        """Return those of both together."""
        shared = len(self.digests & other.digests)
        return Copies(self.found + other.found + shared, self.digests | other.digests)
