"""Member: an array of an .npz file whose samples are read when they are needed, packed or not."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

import fsspec
import numpy as np

from fewstep.errors import UserError
from fewstep.lazy import lazy_imports
from fewstep.rows import pieces

if TYPE_CHECKING:
    from torch import Tensor

with lazy_imports():
    import torch

PICKLED = "it would have to be unpickled"  # numpy's own message says so, too


class OpenNpz:
    """An open .npz file; nothing in it is ever unpickled.

    Args:
        location: a path or URL.
        name: what the user calls it.

    Raises:
        UserError: if it can't be read.
    """

    def __init__(self, location: str, name: str) -> None:
        self.name = name
        opened = ExitStack()
        weakref.finalize(self, opened.close)
        with self.explained():
            file = opened.enter_context(fsspec.open(location, "rb"))
            self._arrays = opened.enter_context(np.load(file, allow_pickle=False))
            self.arrays = list(self._arrays)

    def read(self, array: str) -> np.ndarray:
        """Return a whole array."""
        with self.explained(array):
            return self._arrays[array]

    def open(self, array: str) -> Member:
        """Return an array whose samples stay in the file."""
        with self.explained(array):
            names = self._arrays.zip.namelist()
            stream = self._arrays.zip.open(array if array in names else f"{array}.npy")
            one = np.lib.format.read_magic(stream) == (1, 0)
            read = np.lib.format.read_array_header_1_0 if one else np.lib.format.read_array_header_2_0
            shape, by_columns, dtype = read(stream)
            if dtype.hasobject:
                raise ValueError(PICKLED)
        whole = self.read(array) if by_columns else None
        return Member(self, array, shape, dtype, stream, stream.tell(), whole)

    @contextmanager
    def explained(self, array: str = "") -> Iterator[None]:
        """Turn what a damaged or missing file leads to into one message."""
        try:
            yield
        except UserError:
            raise
        except FileNotFoundError as error:
            raise UserError(f"there is no file {self.name}; put it there") from error
        except Exception as error:  # a damaged zip file raises whatever its first bad byte leads to
            if array and "pickle" in str(error):
                raise UserError(
                    f"{self.name}: {array} holds Python objects, which are never read; save it as an array "
                    "of numbers (are all samples of one shape?)"
                ) from error
            raise UserError(
                f"{self.name} is no readable .npz file ({error}); save it with numpy.savez"
            ) from error


@dataclass(frozen=True, eq=False)
class Member:
    """An array of an open .npz file, of which samples are read; cheap if they follow those before."""

    file: OpenNpz
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    stream: IO[bytes]
    start: int
    """Where in the stream the numbers begin."""
    whole: np.ndarray | None
    """The array, if it is saved by columns (Fortran's order), so that samples lie in no order."""

    def read(self, numbers: np.ndarray) -> np.ndarray:
        """Return the samples with these increasing numbers, int64 (m,): (m, *shape)."""
        if self.whole is not None:
            return self.whole[numbers]
        room = np.empty((len(numbers), *self.shape[1:]), self.dtype)
        if not len(numbers):
            return room
        size = room[:1].nbytes
        spans = pieces(torch.arange(int(numbers[0]), int(numbers[-1]) + 1), self.shape[1:])
        for first, stop in ((int(span[0]), int(span[-1]) + 1) for span in spans):
            here = slice(*np.searchsorted(numbers, [first, stop]))
            with self.file.explained(self.name):
                self.stream.seek(self.start + first * size)
                content = self.stream.read((stop - first) * size)
                found = np.frombuffer(content, self.dtype).reshape(stop - first, *self.shape[1:])
            room[here] = found[numbers[here] - first]
        return room


@dataclass(frozen=True)
class MemberRows:
    """The samples of a member as tensors; see fewstep.rows.Rows."""

    member: Member
    change: Callable[[np.ndarray], Tensor]
    """Takes samples (m, *shape of the member), whatever m is."""

    @property
    def shape(self) -> tuple[int, ...]:
        """See Rows."""
        none = self.change(np.empty((0, *self.member.shape[1:]), self.member.dtype))
        return len(self), *none.shape[1:]

    def __len__(self) -> int:
        """See Rows."""
        return self.member.shape[0]

    def __getitem__(self, numbers: Tensor) -> Tensor:
        """See Rows."""
        increasing, back = numbers.unique(return_inverse=True)
        return self.change(self.member.read(increasing.numpy()))[back]
