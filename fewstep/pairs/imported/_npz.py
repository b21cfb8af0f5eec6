"""Pairs in an .npz file: the arrays noise and data, and perhaps label and weight."""

from __future__ import annotations

import math
from collections import Counter
from typing import IO
from zipfile import ZipFile

import numpy as np

from fewstep.errors import UserError
from fewstep.pairs.imported._npy import Npy

FIELDS = ("noise", "data", "label", "weight")


class NpzRecords:
    """See Records. The arrays stay open: to go on in a compressed one is cheap, to start again is not.

    Args:
        file: the .npz file.
        name: what the user calls it.

    Raises:
        UserError: if it is none, an array is missing or of another type, or their shapes don't agree.
    """

    def __init__(self, file: IO[bytes], name: str) -> None:
        try:
            archive = ZipFile(file)
            found = {member.removesuffix(".npy"): member for member in archive.namelist()}
            opened = {field: archive.open(found[field]) for field in FIELDS if field in found}
        except Exception as error:  # a damaged zip file raises whatever its first bad byte leads to
            raise UserError(f"{name} is no readable .npz file ({error}); save it with numpy.savez") from error
        for field in ("noise", "data"):
            if field not in opened:
                raise UserError(f"{name} holds {', '.join(found) or 'nothing'}, but no array {field!r}")
        self._arrays = {field: Npy(content, f"{name}: {field}") for field, content in opened.items()}
        self.passed_over = Counter(array for array in found if array not in FIELDS)
        self._agree(name)
        self.count, *shape = self._arrays["noise"].shape
        self.shape = tuple(shape)
        for field, array in self._arrays.items():
            array.must_be(field, image=len(shape) == 3)
        label = self._arrays.pop("label", None)
        self.labels = None if label is None else label.numbers(0, self.count).astype(np.int64)

    def _agree(self, name: str) -> None:
        shapes = {field: array.shape for field, array in self._arrays.items()}
        if shapes["noise"] != shapes["data"]:
            raise UserError(
                f"{name}: noise has shape {shapes['noise']} and data {shapes['data']}; row by row they are a "
                "pair, so save as many of the same shape"
            )
        if len(shapes["noise"]) < 2:
            raise UserError(f"{name}: noise has shape {shapes['noise']}; (pairs, *shape) is needed")
        for field in shapes.keys() & {"label", "weight"}:
            if shapes[field] != shapes["noise"][:1]:
                raise UserError(
                    f"{name}: {field} has shape {shapes[field]}; {shapes['noise'][0]} pairs need shape "
                    f"{shapes['noise'][:1]}"
                )

    def read(self, start: int, stop: int) -> dict[str, np.ndarray]:
        """See Records.read."""
        found = {}
        for field, array in self._arrays.items():
            each = math.prod(array.shape[1:])
            numbers = array.floats(start * each, (stop - start) * each)
            found[field] = numbers.reshape(stop - start, *array.shape[1:])
        return found
