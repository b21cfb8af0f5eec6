"""Samples: a whole data set in memory, and the checks that every source's data must pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fewstep.data._ranges import check_scale
from fewstep.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

SMALLEST_IMAGE = 8


@dataclass(frozen=True, kw_only=True)
class Samples:
    """A data set: images (n, C, H, W) in [-1, 1] or points (n, D), perhaps with class labels."""

    data: Tensor
    """float32; or uint8 codes, which mean scale * code + offset."""
    label: Tensor | None = None  # (n,) int64
    class_names: tuple[str, ...] = ()
    affine: tuple[float, float] | None = None
    """(scale, offset) of uint8 data."""
    units: dict[str, list[float]] | None = None
    """{"scale": (D,), "offset": (D,)} of standardised points; the file holds scale * data + offset."""
    notes: tuple[str, ...] = ()
    """What a user should know of how the source was read, such as what was passed over."""

    @property
    def pixels(self) -> bool:
        """Whether samples are images in [-1, 1], which are measured as they would be saved."""
        return self.data.dim() == 4

    def floats(self) -> Tensor:
        """Return the data as float32."""
        if self.affine is None:
            return self.data
        scale, offset = self.affine
        return self.data.float() * scale + offset


def check_samples(samples: Samples, where: str, names: Sequence[str] | None = None) -> Samples:
    """Return `samples` if one can train on them.

    Args:
        samples: what a source read.
        where: the source as the user named it, for messages.
        names: what the user calls each sample, such as its file; its number if None.

    Raises:
        UserError: if there are none, the shape is neither images of at least 8x8 nor points, a value
            is not finite, an image has one flat colour, points are of another scale than noise, or the
            labels don't fit.
    """
    data = samples.data
    if len(data) == 0:
        raise UserError(f"{where} is empty: it holds no samples")
    if data.dim() not in (2, 4):
        raise UserError(
            f"{where} has samples of shape {tuple(data.shape[1:])}; images (channels, height, width) or "
            "points (features,) are needed"
        )
    if data.dim() == 4 and min(data.shape[2:]) < SMALLEST_IMAGE:
        height, width = data.shape[2:]
        raise UserError(
            f"{where} has images of {height}x{width} pixels; they must be at least "
            f"{SMALLEST_IMAGE}x{SMALLEST_IMAGE}"
        )
    if data.is_floating_point():
        finite = data.flatten(1).isfinite().all(1)
        _refuse(~finite, where, names, "hold NaN or infinity", "remove or mend them")
    if data.dim() == 4:
        pixels = data.flatten(2)
        flat = (pixels.amax(2) == pixels.amin(2)).all(1)
        _refuse(flat, where, names, "are of one flat colour", "remove them")
    else:
        check_scale(data, where)
    if samples.label is not None:
        _check_labels(samples.label, len(data), where)
    return samples


def _refuse(bad: Tensor, where: str, names: Sequence[str] | None, what: str, remedy: str) -> None:
    if bad.any():
        first = int(bad.nonzero()[0])
        name = names[first] if names else f"number {first} (counted from 0)"
        raise UserError(
            f"{where}: {int(bad.sum())} of {len(bad)} samples {what}, the first is {name}; {remedy}"
        )


def _check_labels(label: Tensor, n: int, where: str) -> None:
    if label.shape != (n,):
        raise UserError(f"{where}: labels have shape {tuple(label.shape)}; {n} samples need shape ({n},)")
    if label.min() < 0:
        first = int((label < 0).nonzero()[0])
        raise UserError(f"{where}: label {int(label[first])} of sample {first} is negative; count from 0")
    if label.max() >= n:
        raise UserError(
            f"{where}: label {int(label.max())} is too large for {n} samples; number classes 0, 1, 2, ..."
        )
