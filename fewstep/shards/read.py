"""Read shards from a folder or any fsspec URL; nothing is extracted, and damage is refused."""

import hashlib
import io
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import accumulate, pairwise
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from fewstep import randomness
from fewstep.errors import UserError
from fewstep.files import distrust
from fewstep.registry import unknown
from fewstep.shards import records
from fewstep.shards.damage import DamagedError, problem_of
from fewstep.shards.fields import decode, empty
from fewstep.shards.index import INDEX, REMEDY, origin_of, parse
from fewstep.shards.store import Store

AT_ONCE = 4  # shards of a URL that are fetched together, and so are in memory twice


class Shards:
    """A finished set of samples.

    Attributes:
        samples: how many there are.
        fields: for each tensor of a sample its storage "dtype" and "shape", or how it is "drawn".
        facts: what the samples were made of.
        files: the shards, in order.
        ranges: the numbers of each shard's samples.
        digest: sha256 of the index, which holds the sha256 of every shard.

    Args:
        url: the folder of a set, or its URL.
        check: compare each shard's sha256 when it is read for the first time: that finds every damage,
            and takes longer than reading, but happens in the first epoch only. Sizes, types, counts and
            where a shard comes from are compared at each reading in any case.

    Raises:
        UserError: if there is no finished set at `url`, its index is damaged or of another version, or
            its kind of URL can't be read.
    """

    def __init__(self, url: str | Path, *, check: bool = True) -> None:
        self._store = Store(url)
        self.url = self._store.url
        try:
            content = self._store.read(INDEX)
        except FileNotFoundError as error:
            raise UserError(f"no finished shards at {self.url}: {INDEX} is missing; {REMEDY}") from error
        index = parse(content, self.url)
        self.samples, self.fields, self.facts = index.samples, index.fields, index.facts
        self.files, self.ranges, self._recipe = index.files, index.ranges, index.recipe
        self.digest = hashlib.sha256(content).hexdigest()
        self._unchecked = set(range(len(self.files))) if check else set()
        self._records: dict[int, tuple[records.Record, ...]] = {}

    def read(self, shard: int) -> dict[str, Tensor]:
        """Return the samples of one shard, (n, *shape): float32, and int64 for labels.

        Raises:
            UserError: if the shard is missing, damaged, or not the one that was written.
        """
        stored = empty(self.fields, len(self.ranges[shard]))
        self.read_into(stored, [shard])
        return decode(stored, self.fields, self.numbers([shard]))

    def read_into(self, stored: dict[str, Tensor], shards: Sequence[int]) -> None:
        """Read some shards into the first rows of `stored`; behind a URL several at a time.

        Args:
            stored: all stored fields, dense tensors (n, *shape) in their storage types.
            shards: their numbers; they have no more than n samples.

        Raises:
            UserError: if a shard is missing, damaged, or not the one that was written.
        """
        sizes = [len(self.ranges[shard]) for shard in shards]
        rows = [slice(stop - size, stop) for stop, size in zip(accumulate(sizes), sizes, strict=True)]
        rooms = [{name: tensor[part] for name, tensor in stored.items()} for part in rows]
        if self._store.folder is not None:
            for room, shard in zip(rooms, shards, strict=True):
                self._fill(room, shard)
            return
        with ThreadPoolExecutor(AT_ONCE) as pool:  # a single connection to an object store is slow
            list(pool.map(self._fill, rooms, shards))

    def take(self, numbers: Tensor, names: Collection[str] | None = None) -> dict[str, Tensor]:
        """Return the samples with these numbers, int64 (n,), in their order: fields (n, *shape).

        Only their bytes are read, so it suits few samples of many in a folder; behind a URL whole shards are.

        Args:
            numbers: of the samples in the set.
            names: the fields wanted; None for all.

        Raises:
            UserError: if a number is not one of the set, or a name none of its fields; if a shard is missing,
                damaged, or not the one that was written.
        """
        if len(numbers):
            least, most = (int(end) for end in numbers.aminmax())
            if least < 0 or most >= self.samples:
                raise UserError(
                    f"samples are numbered 0 to {self.samples - 1}; {least} to {most} were asked for"
                )
        for name in sorted(set(names or ()) - self.fields.keys()):
            raise UserError(unknown("field", name, list(self.fields)))
        fields = {name: field for name, field in self.fields.items() if names is None or name in names}
        increasing, order = numbers.sort()
        stored = empty(fields, len(numbers))
        ends = torch.searchsorted(increasing, torch.tensor([part.stop for part in self.ranges])).tolist()
        for shard, (start, stop) in enumerate(pairwise([0, *ends])):
            if start < stop:
                rows = {name: tensor[start:stop] for name, tensor in stored.items()}
                self._fill_some(rows, shard, increasing[start:stop].numpy())
        place = order.argsort()
        return decode({name: tensor[place] for name, tensor in stored.items()}, fields, numbers)

    def numbers(self, shards: Sequence[int]) -> Tensor:
        """Return the numbers in the set, int64 (n,), of the samples of some shards."""
        return torch.cat(
            [torch.arange(self.ranges[shard].start, self.ranges[shard].stop) for shard in shards]
        )

    def load(self, limit: int | None = None) -> dict[str, Tensor]:
        """Return all samples, or the first `limit`, (n, *shape); for sets that fit in memory.

        Raises:
            UserError: if a shard is missing, damaged, or not the one that was written.
        """
        shards = [n for n, numbers in enumerate(self.ranges) if limit is None or numbers.start < limit]
        numbers = self.numbers(shards)
        stored = empty(self.fields, len(numbers))
        self.read_into(stored, shards)
        return decode({name: tensor[:limit] for name, tensor in stored.items()}, self.fields, numbers[:limit])

    def some(self, most: int, *, seed: int) -> dict[str, Tensor]:
        """Return at most `most` samples drawn at random, (n, *shape), in their order: sets may be sorted.

        All of a set that has no more.

        Raises:
            UserError: if a shard is missing, damaged, or not the one that was written.
        """
        return self.take(self.numbers_of_some(most, seed=seed))

    def numbers_of_some(self, most: int, *, seed: int) -> Tensor:
        """Return the numbers, int64 (n,), increasing, of the samples of `some`."""
        chosen = randomness.permutation("some samples", seed, 0, self.samples)[:most]
        return torch.from_numpy(chosen).sort().values

    def content(self, shard: int) -> bytes:
        """Return the bytes of a shard.

        Raises:
            UserError: if it is missing, damaged, or not the one that was written.
        """
        self._unchecked.add(shard)
        with self._opened(shard) as stream:
            stream.seek(0)
            return stream.read()

    def _fill(self, stored: dict[str, Tensor], shard: int) -> None:
        """Read a shard into tensors of its size."""
        with self._opened(shard) as stream:
            try:
                records.fill(stored, stream, first=self.ranges[shard].start, origin=self._origin(shard))
            except Exception as error:  # whatever damaged bytes lead to
                raise self._damaged(shard, error) from error

    def _fill_some(self, stored: dict[str, Tensor], shard: int, numbers: np.ndarray) -> None:
        """Read the samples of a shard with these increasing numbers into tensors of their size."""
        with self._opened(shard) as stream:
            try:
                if shard not in self._records:
                    self._records[shard] = records.records_of(
                        stream, first=self.ranges[shard].start, origin=self._origin(shard)
                    )
                records.fill_rows(stored, stream, self._records[shard], numbers)
            except Exception as error:
                raise self._damaged(shard, error) from error

    def _damaged(self, shard: int, error: Exception) -> DamagedError:
        path = self._store.path(self.files[shard].name)
        return DamagedError(f"{path} doesn't hold what {INDEX} says: {error}; {REMEDY}")

    @contextmanager
    def _opened(self, shard: int) -> Iterator[BinaryIO]:
        """Open a shard, if it is the one that was written."""
        name, folder = self.files[shard].name, self._store.folder
        path = self._store.path(name)
        try:
            if folder is not None:
                stream: BinaryIO = (folder / name).open("rb")
            else:
                stream = io.BytesIO(self._store.read(name))  # whole: one request is faster than many
        except FileNotFoundError as error:
            raise DamagedError(f"{path} is missing; {REMEDY}") from error
        except OSError as error:
            raise UserError(f"can't read {path}: {error}") from error
        with stream:
            check = shard in self._unchecked
            if problem := problem_of(stream, self.files[shard], self._origin(shard), digest=check):
                if folder is not None:
                    distrust(folder / name)
                raise DamagedError(f"{path} {problem}; {REMEDY}")
            self._unchecked.discard(shard)
            yield stream

    def _origin(self, shard: int) -> str:
        """Return what the records of a shard must say that they are."""
        return origin_of(self._recipe, self.ranges[shard])
