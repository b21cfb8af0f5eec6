"""Pairs in tar files of WebDataset, a record a pair; an index of where they are is all that is kept."""

from __future__ import annotations

import io
import math
from array import array
from collections import Counter
from itertools import groupby
from typing import IO

import numpy as np
from fsspec import AbstractFileSystem

from fewstep.errors import UserError
from fewstep.pairs.imported._members import MemberBytes, records
from fewstep.pairs.imported._npy import Npy


class TarRecords:
    """See Records.

    Args:
        files: the file system.
        tars: the places of the tar files, by what the user calls them, in order.

    Raises:
        UserError: if one is damaged, or a record lacks a half or differs from the others in its fields.
    """

    def __init__(self, files: AbstractFileSystem, tars: dict[str, str]) -> None:
        self._files, self._tars = files, list(tars.items())
        self._fields: list[str] = []
        labels, index = array("q"), array("q")  # 8 bytes a number
        passed_over: Counter[str] = Counter()
        for number, (name, place) in enumerate(self._tars):
            with files.open(place, "rb") as file:
                for key, places in records(file, name, passed_over):
                    self._refuse_other_fields(places, f"{name}: record {key!r}")
                    if "label" in places:
                        where = f"{name}: the label of record {key!r}"
                        labels.append(_label(_content(file, places["label"]), where))
                    index.append(number)
                    for field in self._fields:
                        index.extend(places[field])
        self.count = len(index) // (1 + 2 * len(self._fields))
        self._index = np.array(index, dtype=np.int64).reshape(self.count, 1 + 2 * len(self._fields))
        self.labels = np.array(labels, dtype=np.int64) if labels else None
        self.passed_over = passed_over
        self.shape: tuple[int, ...] = ()
        if self.count:
            first, place = self._tars[self._index[0, 0]]
            with files.open(place, "rb") as file:
                self.shape = self._array(file, first, 0, "noise").shape

    def _refuse_other_fields(self, places: dict[str, MemberBytes], record: str) -> None:
        for half in ("noise", "data"):
            if half not in places:
                raise UserError(f"{record} lacks {half}.npy; every record holds noise.npy and data.npy")
        fields = sorted(places)
        self._fields = self._fields or fields
        if fields != self._fields:
            raise UserError(
                f"{record} holds {', '.join(fields)}, but the first one {', '.join(self._fields)}; give all "
                "the same"
            )

    def read(self, start: int, stop: int) -> dict[str, np.ndarray]:
        """See Records.read."""
        shapes = {"noise": self.shape, "data": self.shape, "weight": ()}
        fields = [field for field in self._fields if field != "label"]
        found = {field: np.empty((stop - start, *shapes[field]), np.float32) for field in fields}
        for number, pairs in groupby(range(start, stop), key=lambda pair: self._index[pair, 0]):
            name, place = self._tars[number]
            with self._files.open(place, "rb") as file:
                for pair in pairs:
                    for field in fields:
                        stored = self._array(file, name, pair, field)
                        if stored.shape != shapes[field]:
                            raise UserError(
                                f"{name}: {field}.npy of pair {pair} has shape {stored.shape}, not "
                                f"{shapes[field]}; all pairs are of one shape"
                            )
                        stored.must_be(field, image=len(self.shape) == 3)
                        values = stored.floats(0, math.prod(stored.shape))
                        found[field][pair - start] = values.reshape(stored.shape)
        return found

    def _array(self, file: IO[bytes], name: str, pair: int, field: str) -> Npy:
        column = 1 + 2 * self._fields.index(field)
        content = _content(file, MemberBytes(*self._index[pair, column : column + 2].tolist()))
        return Npy(io.BytesIO(content), f"{name}: {field}.npy of pair {pair}")


def _content(file: IO[bytes], place: MemberBytes) -> bytes:
    file.seek(place.start)
    return file.read(place.size)


def _label(content: bytes, where: str) -> int:
    """Return the number in a label.npy, or in the text of a cls."""
    if content.startswith(b"\x93NUMPY"):
        stored = Npy(io.BytesIO(content), where)
        stored.must_be("label")
        if math.prod(stored.shape) != 1:
            raise UserError(f"{where} has shape {stored.shape}; a pair has one label")
        return int(stored.numbers(0, 1)[0])
    try:
        return int(np.int64(int(content)))
    except (ValueError, OverflowError) as error:
        raise UserError(f"{where} is {content[:20]!r}; labels must be whole numbers 0, 1, 2, ...") from error
