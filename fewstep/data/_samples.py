"""Samples: a data set, which need not fit in memory, and the checks that every source's data must pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from fewstep.data._ranges import check_scale
from fewstep.data._survey import Survey, survey_of
from fewstep.errors import UserError
from fewstep.rows import in_pieces

if TYPE_CHECKING:
    from torch import Tensor

    from fewstep.conditions import Table
    from fewstep.rows import Rows

SMALLEST_IMAGE = 8
STANDARDISE = "rescale them, or set prepare.source_options.standardise to true, which an .npz file takes"


@dataclass(frozen=True, kw_only=True)
class Samples:
    """A data set: images in [-1, 1] or latents (n, C, H, W) or points (n, D); perhaps with conditions."""

    data: Rows
    """A tensor, or what reads samples when they are asked for. float32; or uint8 codes, which mean
    scale * code + offset."""
    label: Tensor | None = None  # (n,) int64
    class_names: tuple[str, ...] = ()
    class_shares: tuple[float, ...] = ()
    """How often each class comes, if that is known, (classes,); else it is counted."""
    conditions: Table | None = None
    """All else that samples are conditioned on, a row each."""
    texts: tuple[str, ...] = ()
    """What each sample shows, of a source without conditions: prepare.text_encoders make them of it."""
    affine: tuple[float, float] | None = None
    """(scale, offset) of uint8 data."""
    units: dict[str, list[float]] | None = None
    """{"scale": (D,), "offset": (D,)} of standardised points; the file holds scale * data + offset."""
    latents: bool = False
    """Whether samples (n, C, H, W) are latents of a codec, which have no range."""
    notes: tuple[str, ...] = ()
    """What a user should know of how the source was read, such as what was passed over."""

    @property
    def pixels(self) -> bool:
        """Whether samples are images in [-1, 1], which are measured as they would be saved."""
        return len(self.data.shape) == 4 and not self.latents

    def fields(self, chosen: Tensor, start: int, stop: int) -> dict[str, Tensor]:
        """Return what shards hold of the samples from `start` to `stop` among the chosen, int64 (n,)."""
        numbers = chosen[start:stop]
        labels = {} if self.label is None else {"label": self.label[numbers]}
        others = {} if self.conditions is None else self.conditions.take(numbers)
        return {"data": self.data[numbers], **labels, **others}


def check_samples(
    samples: Samples,
    where: str,
    name_of: Callable[[int], str] = "number {} (counted from 0)".format,
    survey: Survey | None = None,
) -> Survey:
    """Look at all samples, a piece at a time, and refuse what one can't train on.

    Args:
        samples: what a source reads.
        where: the source as the user named it, for messages.
        name_of: returns what the user calls a sample, given its number.
        survey: of the data, if somebody looked at it already.

    Returns:
        What was found.

    Raises:
        UserError: if there are none, or no numbers in them, the shape is neither images of at least 8x8 nor
            points, a value is not finite, an image has one flat colour, points or latents are of another
            scale than noise, or the labels don't fit.
    """
    count, *shape = samples.data.shape
    refuse_empty(samples.data.shape, where)
    if len(shape) not in (1, 3):
        raise UserError(
            f"{where} has samples of shape {tuple(shape)}; images (channels, height, width) or "
            "points (features,) are needed"
        )
    if samples.pixels and min(shape[1:]) < SMALLEST_IMAGE:
        height, width = shape[1:]
        raise UserError(
            f"{where} has images of {height}x{width} pixels; they must be at least "
            f"{SMALLEST_IMAGE}x{SMALLEST_IMAGE}"
        )
    found = survey or survey_of(in_pieces(samples.data), latents=samples.latents)
    refusals = (
        (found.not_finite, "hold NaN or infinity", "remove or mend them"),
        (found.flat, "are of one flat colour", "remove them"),
    )
    for bad, what, remedy in refusals:
        if bad.count:
            raise UserError(
                f"{where}: {bad.count} of {count} samples {what}, the first is {name_of(bad.first)}; {remedy}"
            )
    if samples.latents:
        check_scale(
            found.points, where, "channel", "multiply them by the scaling_factor of their autoencoder"
        )
    elif not samples.pixels:
        check_scale(found.points, where, "feature", STANDARDISE)
    if samples.label is not None:
        _check_labels(samples.label, count, where)
    return found


def refuse_empty(shape: tuple[int, ...], where: str) -> None:
    """Refuse data (n, *shape) without samples, or with samples that hold no numbers.

    Raises:
        UserError: if it is such.
    """
    if shape[0] == 0:
        raise UserError(f"{where} is empty: it holds no samples")
    if 0 in shape:
        raise UserError(
            f"{where} has shape {tuple(shape)}: an axis of length 0 leaves samples without numbers; save "
            "samples that hold some"
        )


def with_conditions(samples: Samples, table: Table | None, where: str) -> Samples:
    """Return the samples with conditions, a row each.

    Raises:
        UserError: if there are more rows, or fewer.
    """
    if table is not None and len(table) != len(samples.data):
        raise UserError(
            f"{where}: conditions have {len(table)} rows; {len(samples.data)} samples need as many"
        )
    return replace(samples, conditions=table)


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
