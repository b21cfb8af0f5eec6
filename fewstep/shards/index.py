"""The index of a set, `shards.json`: which shards there are, what they hold and what they were made of."""

import json
from collections import Counter
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

from fewstep.errors import UserError
from fewstep.shards.fields import DTYPES, Field, is_drawn_as_ever

INDEX = "shards.json"
VERSION = 2
REMEDY = "make the set again: in a checkout by `fewstep recover`, then `dvc repro` of the stage that made it"
"""For a set that is damaged, which DVC may restore."""
ANEW = "make the set again: in a checkout by `fewstep run --force --only` and the stage that made it"
"""For a set that is whole, but of no use."""


@dataclass(frozen=True)
class ShardFile:
    """What the index says of one shard."""

    name: str
    samples: int
    bytes: int
    sha256: str


def shard_name(number: int) -> str:
    """Return the file name of shard `number`."""
    return f"shard-{number:05d}.tar"


def origin_of(recipe: str, part: range) -> str:
    """Return what the records of a shard say: the digest of its set's recipe, and which samples they are."""
    return f"{recipe}/{part.start}-{part.stop}"


@dataclass(frozen=True)
class Index:
    """What the index says."""

    samples: int
    fields: dict[str, Field]
    facts: dict[str, Any]
    recipe: str
    """Digest of all that decides the samples; each shard names it too."""
    files: tuple[ShardFile, ...]

    @property
    def ranges(self) -> list[range]:
        """The numbers of each shard's samples."""
        stops = accumulate((file.samples for file in self.files), initial=0)
        return [range(start, stop) for start, stop in pairwise(stops)]

    def contradiction(self) -> str | None:
        """Say what can't be."""
        if [file.name for file in self.files] != [shard_name(n) for n in range(len(self.files))]:
            # A shard is opened by its number, so no index can lead the reader to another file.
            return "its shards are not numbered through"
        if not self.files:
            return "it names no shards"
        if self.samples != sum(file.samples for file in self.files):
            return f"its shards don't have {self.samples} samples"
        if unknown := {field["dtype"] for field in self.fields.values()} - DTYPES.keys():
            return f"there is no storage type {min(unknown)!r}"
        for digest, times in Counter(file.sha256 for file in self.files).items():
            if times > 1:
                return f"{' and '.join(f.name for f in self.files if f.sha256 == digest)} are one shard"
        return None


def parse(content: bytes, folder: str) -> Index:
    """Return what the index of the set at `folder` says.

    Raises:
        UserError: if it is damaged, contradicts itself or is of another version, or if the noise that
            belongs to it can't be drawn any more.
    """
    try:
        told = json.loads(content)
        version = int(told["version"])
        if version == VERSION:
            files = tuple(ShardFile(**entry) for entry in told["shards"])
            index = Index(told["samples"], told["fields"], told["facts"], told["recipe"], files)
            contradiction = index.contradiction()
            drawn = {name: field for name, field in index.fields.items() if "drawn" in field}
            changed = [name for name, field in drawn.items() if not is_drawn_as_ever(field)]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder}/{INDEX} is damaged: it is no index of shards; {REMEDY}") from error
    if version != VERSION:
        age, remedy = ("a newer", f"upgrade fewstep, or {ANEW}") if version > VERSION else ("an older", ANEW)
        raise UserError(
            f"{folder} was made by {age} fewstep (schema {version}, this one knows {VERSION}): {remedy}"
        )
    if contradiction:
        raise UserError(f"{folder}/{INDEX} contradicts itself: {contradiction}; {REMEDY}")
    if changed:
        raise UserError(
            f"field {changed[0]!r} of {folder} is noise to be drawn, and this numpy draws other numbers than "
            f"the one that made the set: install that one, or {ANEW}"
        )
    return index
