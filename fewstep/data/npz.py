"""Npz: a user's arrays in one .npz file: x, and y if there are classes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import fsspec
import numpy as np
from etils.epy import lazy_imports

from fewstep.data._options import check_yes_or_no
from fewstep.data._ranges import BYTES, affine_of, check_filled, check_range
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
    """The range of images, such as (0, 1), which is scaled to [-1, 1]; that of uint8 is (0, 255) if none is
    given."""
    standardise: bool = False
    """Whether each feature of points is shifted and scaled to mean 0 and standard deviation 1; samples of a
    model come back in the file's own units (ModelConfig.units)."""

    def __post_init__(self) -> None:
        check_range(self.value_range)
        check_yes_or_no("standardise", self.standardise)

    def load(self, root: Path) -> Samples:
        """Return the checked arrays; uint8 images stay uint8.

        Raises:
            UserError: if the file can't be read or holds something else.
        """
        x, y, notes = self._arrays(self.path if "://" in self.path else str(root / self.path))
        image = x.ndim > 2
        if x.dtype.kind != "f" and not (x.dtype == np.uint8 and image):
            raise UserError(f"{self.path}: x is {x.dtype}; save images as uint8 or floats, points as floats")
        label = None if y is None else torch.from_numpy(self._labels(y))
        samples = self._images(x, label) if image else self._points(x, label)
        names = () if label is None else tuple(map(str, range(int(label.max()) + 1)))
        return replace(samples, class_names=names, notes=notes)

    def _images(self, x: np.ndarray, label: Tensor | None) -> Samples:
        if self.standardise:
            raise UserError(f"{self.path}: standardise is for points, and x is images; remove it")
        as_bytes = x.dtype == np.uint8
        x = self._channels_first(x if as_bytes else x.astype(np.float32))
        data, where = torch.from_numpy(np.ascontiguousarray(x)), f"{self.path}: x"
        check_samples(Samples(data=data, label=label), self.path)
        value_range = self.value_range or (BYTES if as_bytes else None)
        if value_range is None:
            low, high = float(data.min()), float(data.max())
            raise UserError(
                f"{where} holds floats from {low:g} to {high:g}; say which range that is, such as "
                "value_range: [0, 1]"
            )
        check_filled(data, value_range, where)
        if as_bytes:
            return Samples(data=data, label=label, affine=affine_of(value_range))
        bottom, top = value_range
        return Samples(data=(data - bottom) * (2 / (top - bottom)) - 1, label=label)

    def _points(self, x: np.ndarray, label: Tensor | None) -> Samples:
        if self.value_range is not None:
            raise UserError(f"{self.path}: value_range is for images, and x is points; remove it")
        units = None
        if self.standardise and len(finite := x[np.isfinite(x).reshape(len(x), -1).all(1)]):
            offset, scale = finite.mean(0, dtype=np.float64), finite.std(0, dtype=np.float64)
            x = np.where(scale > 0, (x - offset) / np.where(scale > 0, scale, 1), x)
            units = {"scale": scale.tolist(), "offset": offset.tolist()}
        x = x.astype(np.float64 if x.dtype.itemsize > 4 else np.float32)  # float32 may not tell them apart
        samples = Samples(data=torch.from_numpy(np.ascontiguousarray(x)), label=label, units=units)
        check_samples(samples, self.path)
        return replace(samples, data=samples.data.float())

    def _arrays(self, location: str) -> tuple[np.ndarray, np.ndarray | None, tuple[str, ...]]:
        try:
            with fsspec.open(location, "rb") as file, np.load(file, allow_pickle=False) as arrays:
                if "x" not in arrays:
                    raise UserError(f"{self.path} holds {', '.join(arrays) or 'nothing'}, but no array 'x'")
                others = [name for name in arrays if name not in ("x", "y")]
                notes = (f"{self.path}: passed over {len(others)} arrays: {', '.join(others)}",)
                y = self._array(arrays, "y") if "y" in arrays else None
                return self._array(arrays, "x"), y, notes if others else ()
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
