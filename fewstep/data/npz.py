"""Npz: a user's arrays in one .npz file: x, and y if there are classes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import fsspec
import numpy as np
from etils.epy import lazy_imports

from fewstep.data._samples import SMALLEST_IMAGE, Samples, check_samples
from fewstep.errors import UserError

with lazy_imports():
    import torch

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Npz:
    """An .npz file with x: images, uint8 or floats, or points; and perhaps y: class labels (n,).

    Images are (n, height, width), (n, height, width, channels) or (n, channels, height, width), with
    fewer than 8 channels, so that the shape says which.

    Raises:
        UserError: if value_range is not a range.
    """

    path: str
    """Below the folder that holds data/, such as "data/cats.npz"; or a URL that fsspec can open.
    A changed file behind a URL is not noticed: copy it under data/ where that matters."""
    value_range: tuple[float, float] | None = None
    """The range of float images, such as (0, 1), which is scaled to [-1, 1]; uint8 needs none."""

    def __post_init__(self) -> None:
        if self.value_range is not None and not _is_range(self.value_range):
            raise UserError(
                f"value_range must be two numbers, [low, high], low < high, got {self.value_range!r}"
            )

    def load(self, root: Path) -> Samples:
        """Return the checked arrays; uint8 images stay uint8.

        Raises:
            UserError: if the file can't be read or holds something else.
        """
        x, y = self._arrays(self.path if "://" in self.path else str(root / self.path))
        image = x.ndim > 2
        if x.dtype.kind == "f":
            x = x.astype(np.float32)
        elif not (x.dtype == np.uint8 and image):
            raise UserError(f"{self.path}: x is {x.dtype}; save images as uint8 or floats, points as floats")
        data = torch.from_numpy(np.ascontiguousarray(self._channels_first(x) if image else x))
        label = None if y is None else torch.from_numpy(self._labels(y))
        check_samples(Samples(data=data, label=label), self.path)
        affine = (2 / 255, -1.0) if x.dtype == np.uint8 else None
        if image and affine is None:
            data = self._scale(data)
        elif self.value_range is not None:
            raise UserError(f"{self.path}: value_range is for images of floats; remove it")
        names = () if label is None else tuple(map(str, range(int(label.max()) + 1)))
        return Samples(data=data, label=label, class_names=names, affine=affine)

    def _arrays(self, location: str) -> tuple[np.ndarray, np.ndarray | None]:
        try:
            with fsspec.open(location, "rb") as file, np.load(file, allow_pickle=False) as arrays:
                if "x" not in arrays:
                    raise UserError(f"{self.path} holds {', '.join(arrays) or 'nothing'}, but no array 'x'")
                return self._array(arrays, "x"), self._array(arrays, "y") if "y" in arrays else None
        except UserError:
            raise
        except FileNotFoundError as error:
            raise UserError(f"there is no file {self.path}; put it there") from error
        except Exception as error:  # a damaged zip file raises whatever its first bad byte leads to
            raise UserError(
                f"{self.path} is no readable .npz file ({error}); save it with numpy.savez"
            ) from error

    def _array(self, arrays: np.lib.npyio.NpzFile, name: str) -> np.ndarray:
        try:
            return arrays[name]
        except ValueError as error:
            if "pickle" not in str(error):
                raise
            raise UserError(
                f"{self.path}: {name} holds Python objects, which are never read; save it as an array of "
                "numbers (are all samples of one shape?)"
            ) from error

    def _labels(self, y: np.ndarray) -> np.ndarray:
        if y.dtype.kind in "iu":
            return y.astype(np.int64)
        raise UserError(f"{self.path}: y is {y.dtype}; labels must be whole numbers 0, 1, 2, ...")

    def _channels_first(self, x: np.ndarray) -> np.ndarray:
        """Return images as (n, channels, height, width)."""
        if x.ndim == 3:
            return x[:, None]
        channel_axes = [axis for axis in (1, 3) if x.ndim == 4 and x.shape[axis] < SMALLEST_IMAGE]
        if len(channel_axes) != 1:
            raise UserError(
                f"{self.path}: x has shape {x.shape}; images are (n, height, width), (n, height, width, "
                f"channels) or (n, channels, height, width), with sides of at least {SMALLEST_IMAGE} and "
                "fewer channels than that"
            )
        return np.moveaxis(x, channel_axes[0], 1)

    def _scale(self, data: Tensor) -> Tensor:
        """Return float images scaled from value_range to [-1, 1]."""
        low, high = float(data.min()), float(data.max())
        if self.value_range is None:
            raise UserError(
                f"{self.path}: x holds floats from {low:g} to {high:g}; say which range that is, "
                "such as value_range: [0, 1]"
            )
        bottom, top = self.value_range
        if low < bottom or high > top:
            raise UserError(
                f"{self.path}: x goes from {low:g} to {high:g}, outside value_range {[bottom, top]}"
            )
        return (data - bottom) * (2 / (top - bottom)) - 1


def _is_range(value: object) -> bool:
    """Return whether `value` is two finite numbers, the smaller first."""
    if not isinstance(value, list | tuple) or len(value) != 2:
        return False
    numbers = all(isinstance(end, int | float) and not isinstance(end, bool) for end in value)
    return numbers and all(map(math.isfinite, value)) and value[0] < value[1]
