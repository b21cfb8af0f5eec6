"""Samples as they are saved: images are measured in range and in 8 bits, as a file or a screen holds them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fewstep.lazy import lazy_imports
from fewstep.rows import Rows, in_pieces

if TYPE_CHECKING:
    from torch import Tensor

with lazy_imports():
    import torch

LEVELS = 255  # steps of 8 bits from -1 to 1
ROUNDED = 1 / LEVELS  # how far beyond the range rounding alone brings a value back


def as_saved(images: Tensor) -> Tensor:
    """Return images, any shape, values meant for [-1, 1], clamped to it and rounded to 8 bits."""
    return _images(levels(images))


def outside(images: Tensor) -> float:
    """Return the share of values beyond [-1, 1] by more than half of an 8-bit level, 0 to 1."""
    return float((images.abs() > 1 + ROUNDED).double().mean())


@dataclass(frozen=True)
class SavedRows:
    """Images of a file of 8-bit levels, .npy (n, *shape), as `as_saved` returns them; see Rows."""

    file: Path

    @property
    def shape(self) -> tuple[int, ...]:
        """See Rows."""
        return self._stored().shape

    def __len__(self) -> int:
        """See Rows."""
        return len(self._stored())

    def __getitem__(self, numbers: Tensor) -> Tensor:
        """See Rows."""
        return _images(torch.from_numpy(self._stored()[numbers.numpy()]).float())

    def _stored(self) -> np.ndarray:
        return np.load(self.file, mmap_mode="r")


def save(rows: Rows, file: Path) -> SavedRows:
    """Write images, (n, *shape), to a file a piece at a time, for what looks at them again and again."""
    header = {"descr": "|u1", "fortran_order": False, "shape": tuple(rows.shape)}
    with file.open("wb") as stored:  # by writes, for a full disk kills who writes to mapped memory
        np.lib.format.write_array_header_1_0(stored, header)
        for part in in_pieces(rows):
            stored.write(levels(part).byte().cpu().numpy().tobytes())
    return SavedRows(file)


def levels(images: Tensor) -> Tensor:
    """Return images, any shape, clamped to [-1, 1], as whole numbers from 0 to LEVELS, in float32."""
    return ((images.clamp(-1, 1) + 1) * (LEVELS / 2)).round()


def _images(numbers: Tensor) -> Tensor:
    """Return levels as images in [-1, 1]."""
    return numbers * (2 / LEVELS) - 1
