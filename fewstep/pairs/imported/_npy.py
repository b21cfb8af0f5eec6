"""Npy: an array in numpy's own format, of which parts are read without the rest."""

from __future__ import annotations

from typing import IO

import numpy as np
from numpy.lib import format as npy

from fewstep.errors import UserError

HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


class Npy:
    """An array whose numbers are read when they are asked for.

    Args:
        file: the array's bytes from their start; it is read from as long as this lives.
        where: what the user calls it.

    Raises:
        UserError: if it is no array of numbers, row after row.
    """

    def __init__(self, file: IO[bytes], where: str) -> None:
        self._file, self._where = file, where
        try:
            self.shape, columns_first, self.dtype = HEADERS[npy.read_magic(file)](file)
            self._start = file.tell()
        except Exception as error:  # damaged bytes raise whatever they lead to
            raise UserError(
                f"{where} is no readable .npy array ({error}); save it with numpy.save"
            ) from error
        if self.dtype.hasobject:
            raise UserError(
                f"{where} holds Python objects, which are never read; save it as an array of numbers (are "
                "all samples of one shape?)"
            )
        if columns_first and len(self.shape) > 1:
            raise UserError(f"{where} is stored column after column; save numpy.ascontiguousarray of it")

    def must_be(self, field: str, *, image: bool = False) -> None:
        """Refuse numbers of another kind than that field has.

        Args:
            field: noise, data, label or weight.
            image: whether a sample is an image, whose data may be pixels.

        Raises:
            UserError: naming what they are and may be.
        """
        if field == "label":
            fits, wanted = self.dtype.kind in "iu", "labels must be whole numbers 0, 1, 2, ..."
        elif field == "data":
            fits = self.dtype.kind == "f" or (image and self.dtype == np.uint8)
            wanted = "save it as floats, or as uint8 if it is images (channels, height, width)"
        else:
            fits, wanted = self.dtype.kind == "f", "save it as floats"
        if not fits:
            raise UserError(f"{self._where} is {self.dtype}; {wanted}")

    def numbers(self, first: int, count: int) -> np.ndarray:
        """Return `count` numbers, in a row, from number `first` on.

        Raises:
            UserError: if the file is damaged or ends before.
        """
        try:
            self._file.seek(self._start + first * self.dtype.itemsize)
            content = self._file.read(count * self.dtype.itemsize)
        except Exception as error:  # a damaged zip file raises whatever its first bad byte leads to
            raise UserError(f"{self._where} is damaged ({error}); save or copy it again") from error
        if len(content) < count * self.dtype.itemsize:
            raise UserError(f"{self._where} ends before its last number; save or copy it again")
        return np.frombuffer(content, self.dtype)

    def floats(self, first: int, count: int) -> np.ndarray:
        """Return the same as float32, pixels scaled from 0 ... 255 to -1 ... 1."""
        numbers = self.numbers(first, count)
        with np.errstate(over="ignore"):  # what is infinite then is refused with its pair's number
            floats = numbers.astype(np.float32)
        return floats * np.float32(2 / 255) - 1 if numbers.dtype == np.uint8 else floats
