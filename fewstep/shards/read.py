"""Read shards from a folder or any fsspec URL; nothing is extracted, and damage is refused."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import fsspec
import torch
from torch import Tensor

from fewstep.errors import UserError
from fewstep.shards import records

INDEX = "shards.json"
VERSION = 1
REMEDY = "run the stage that made it again"


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


class Shards:
    """A finished set of samples.

    Attributes:
        samples: how many there are.
        fields: for each tensor of a sample its storage "dtype" and "shape".
        facts: what the samples were made of.
        files: the shards, in order.
        digest: sha256 of the index, which holds the sha256 of every shard.

    Raises:
        UserError: if there is no finished set at `url`, or its kind of URL can't be read.
    """

    def __init__(self, url: str | Path) -> None:
        self.url = str(url)
        try:
            self._files, self._root = fsspec.core.url_to_fs(self.url)
            index = self._files.cat_file(f"{self._root}/{INDEX}")
        except FileNotFoundError as error:
            raise UserError(f"no finished shards at {self.url}: {INDEX} is missing; {REMEDY}") from error
        except ImportError as error:
            raise UserError(f"{self.url} needs another package: {error}") from error
        except Exception as error:  # file systems raise errors of their own
            raise UserError(f"can't read {self.url}: {error}") from error
        self.digest = hashlib.sha256(index).hexdigest()
        try:
            content = json.loads(index)
            version = content["version"]
            self.samples: int = content["samples"]
            self.fields: dict[str, records.Field] = content["fields"]
            self.facts: dict = content["facts"]
            self.files = tuple(ShardFile(**entry) for entry in content["shards"])
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{self.url}/{INDEX} is damaged ({error!r}); {REMEDY}") from error
        if version != VERSION:
            raise UserError(f"{self.url} has shards of version {version}, not {VERSION}; {REMEDY}")
        # A file is opened by its number, so the index can't lead the reader to any other.
        named = [file.name for file in self.files] == [shard_name(n) for n in range(len(self.files))]
        if not named or self.samples != sum(file.samples for file in self.files):
            raise UserError(f"{self.url}/{INDEX} contradicts itself; {REMEDY}")

    def read(self, number: int) -> dict[str, Tensor]:
        """Return the samples of one shard, (n, *shape): float32, and int64 for labels.

        Raises:
            UserError: if the shard is missing, truncated or altered.
        """
        return records.decode(self.read_stored(number), self.fields)

    def read_stored(self, number: int) -> dict[str, Tensor]:
        """Return the samples of one shard in their storage types, for `records.decode`.

        Raises:
            UserError: if the shard is missing, truncated or altered.
        """
        content = self.content(number)
        try:
            stored = records.unpack(content)
            agrees = records.count(stored) == self.files[number].samples and self._agrees(stored)
        except Exception as error:  # whatever damaged bytes lead to
            raise UserError(f"{self._path(number)} holds no readable records ({error}); {REMEDY}") from error
        if not agrees:
            raise UserError(f"{self._path(number)} doesn't hold what {INDEX} says; {REMEDY}")
        return stored

    def load(self, limit: int | None = None) -> dict[str, Tensor]:
        """Return all samples, or the first `limit`, (n, *shape); for sets that fit in memory.

        Raises:
            UserError: if a shard is missing, truncated or altered.
        """
        wanted = self.samples if limit is None else min(limit, self.samples)
        parts: list[dict[str, Tensor]] = []
        found = 0
        while found < wanted:
            parts.append(self.read(len(parts)))
            found += records.count(parts[-1])
        return {name: torch.cat([part[name] for part in parts])[:wanted] for name in self.fields}

    def verify(self) -> None:
        """Read every shard and compare its digest.

        Raises:
            UserError: if a shard is missing, truncated or altered; the message names the first.
        """
        for number in range(len(self.files)):
            self.content(number)

    def _path(self, number: int) -> str:
        return f"{self._root}/{shard_name(number)}"

    def content(self, number: int) -> bytes:
        """Return the bytes of a shard, which are those that were written."""
        file, path = self.files[number], self._path(number)
        try:
            content = self._files.cat_file(path)
        except FileNotFoundError as error:
            raise UserError(f"{path} is missing; {REMEDY}") from error
        if len(content) != file.bytes:
            raise UserError(
                f"{path} has {len(content)} bytes, not {file.bytes}: it was cut or altered; {REMEDY}"
            )
        if hashlib.sha256(content).hexdigest() != file.sha256:
            raise UserError(f"{path} was altered: its sha256 is not that in {INDEX}; {REMEDY}")
        return content

    def _agrees(self, stored: dict[str, Tensor]) -> bool:
        found = records.describe(stored, {})
        return found.keys() == self.fields.keys() and all(
            (found[name]["dtype"], found[name]["shape"]) == (field["dtype"], field["shape"])
            for name, field in self.fields.items()
        )
