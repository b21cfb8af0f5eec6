"""Npz: a user's arrays in one .npz file: x, and y if there are classes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fewstep.data._conditions import TEXTS, is_of_conditions, table_of, texts_of
from fewstep.data._member import Member, MemberRows, OpenNpz
from fewstep.data._options import check_yes_or_no
from fewstep.data._ranges import BYTES, affine_of, check_filled, check_range
from fewstep.data._samples import SMALLEST_IMAGE, Samples, check_samples, refuse_empty, with_conditions
from fewstep.data._units import units_of
from fewstep.errors import UserError
from fewstep.lazy import lazy_imports
from fewstep.rows import Changed

with lazy_imports():
    import torch

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Npz:
    """An .npz file with x: images, uint8 or floats, latents, or points; and perhaps y: class labels (n,).

    Other conditions are arrays conditions/<name>, (n, ...), each with its null/<name> and negative/<name>,
    (...), if they are not zeros; texts, (n,), is what pictures show of them. See fewstep.conditions. Texts
    alone are what prepare.text_encoders make conditions of.

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
    latents: bool = False
    """Whether x, floats (n, channels, height, width), are latents of an autoencoder, scaled as a model is to
    see them: about as noise is. prepare.codec shows and measures the images that they stand for."""

    def __post_init__(self) -> None:
        check_range(self.value_range)
        check_yes_or_no("standardise", self.standardise)
        check_yes_or_no("latents", self.latents)

    def load(self, root: Path) -> Samples:
        """Return the checked arrays, whose samples are read when they are asked for; uint8 images stay uint8.

        Raises:
            UserError: if the file can't be read or holds something else.
        """
        file = OpenNpz(self.path if "://" in self.path else str(root / self.path), self.path)
        if "x" not in file.arrays:
            raise UserError(f"{self.path} holds {', '.join(file.arrays) or 'nothing'}, but no array 'x'")
        table = table_of(file)
        taken = [TEXTS] if table is None else [name for name in file.arrays if is_of_conditions(name)]
        others = [name for name in file.arrays if name not in ("x", "y", *taken)]
        notes = (f"{self.path}: passed over {len(others)} arrays: {', '.join(others)}",) if others else ()
        label = torch.from_numpy(self._labels(file.read("y"))) if "y" in file.arrays else None
        x = file.open("x")
        image = len(x.shape) > 2 and not self.latents
        if not x.shape:
            raise UserError(
                f"{self.path}: x has shape (), a single number; save an array of samples, such as "
                "(n, features) for points"
            )
        refuse_empty(x.shape, f"{self.path}: x")
        if x.dtype.kind != "f" and not (x.dtype == np.uint8 and image):
            raise UserError(
                f"{self.path}: x is {x.dtype}; save images as uint8 or floats, points and latents as floats"
            )
        if self.latents and (len(x.shape) != 4 or x.dtype.kind != "f"):
            raise UserError(
                f"{self.path}: x is {x.dtype} of shape {x.shape}; latents are floats (n, channels, height, "
                "width)"
            )
        samples = self._images(x, label) if image else self._points(x, label)
        samples = with_conditions(samples, table, self.path)
        names = () if label is None else tuple(map(str, range(int(label.max()) + 1)))
        texts = () if table is not None else texts_of(file, len(samples.data))
        return replace(samples, class_names=names, notes=notes, texts=texts)

    def _images(self, x: Member, label: Tensor | None) -> Samples:
        if self.standardise:
            raise UserError(f"{self.path}: standardise is for points, and x is images; remove it")
        as_bytes, where = x.dtype == np.uint8, f"{self.path}: x"
        to = self._channels_first(x.shape)

        def images(part: np.ndarray) -> Tensor:
            kept = part if as_bytes else part.astype(np.float32)
            return torch.from_numpy(np.ascontiguousarray(to(kept)))

        data = MemberRows(x, images)
        survey = check_samples(Samples(data=data, label=label), self.path)
        value_range = self.value_range or (BYTES if as_bytes else None)
        if value_range is None:
            raise UserError(
                f"{where} holds floats from {survey.low:g} to {survey.high:g}; say which range that is, such "
                "as value_range: [0, 1]"
            )
        check_filled(survey, value_range, where)
        if as_bytes:
            return Samples(data=data, label=label, affine=affine_of(value_range))
        bottom, top = value_range
        scaled = Changed(data, lambda part: (part - bottom) * (2 / (top - bottom)) - 1)
        return Samples(data=scaled, label=label)

    def _points(self, x: Member, label: Tensor | None) -> Samples:
        what = "latents" if self.latents else "points"
        if self.value_range is not None:
            raise UserError(f"{self.path}: value_range is for images, and x is {what}; remove it")
        if self.standardise and self.latents:
            raise UserError(f"{self.path}: standardise is for points, and x is latents; remove it")
        units = units_of(x) if self.standardise and len(x.shape) == 2 else None

        def points(part: np.ndarray) -> Tensor:
            part = part if units is None else units.standardised(part)
            wide = part.dtype.itemsize > 4  # float32 may not tell them apart
            return torch.from_numpy(np.ascontiguousarray(part.astype(np.float64 if wide else np.float32)))

        data, facts = MemberRows(x, points), None if units is None else units.facts()
        samples = Samples(data=data, label=label, latents=self.latents)
        check_samples(samples, self.path)
        return replace(samples, data=Changed(data, torch.Tensor.float), units=facts)

    def _labels(self, y: np.ndarray) -> np.ndarray:
        if y.dtype.kind in "iu":
            return y.astype(np.int64)
        raise UserError(f"{self.path}: y is {y.dtype}; labels must be whole numbers 0, 1, 2, ...")

    def _channels_first(self, shape: tuple[int, ...]) -> Callable[[np.ndarray], np.ndarray]:
        """Return what makes images (m, channels, height, width) of arrays of that shape, but for m."""
        if len(shape) == 3:
            return lambda part: part[:, None]
        channel_axes = [axis for axis in (1, 3) if len(shape) == 4 and shape[axis] < SMALLEST_IMAGE]
        if len(channel_axes) != 1:
            raise UserError(
                f"{self.path}: x has shape {shape}; images are (n, height, width), (n, height, width, "
                f"channels) or (n, channels, height, width), with sides of at least {SMALLEST_IMAGE} and "
                "fewer channels than that"
            )
        return lambda part: np.moveaxis(part, channel_axes[0], 1)
