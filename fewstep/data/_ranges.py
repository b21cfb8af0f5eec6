"""Ranges: images must fill the range that stands for black to white, and points be of the scale of noise."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from fewstep.errors import UserError
from fewstep.lazy import lazy_imports

if TYPE_CHECKING:
    from fewstep.data._survey import Survey
    from fewstep.rows import Running

with lazy_imports():
    import torch

BYTES = (0, 255)
LEAST_FILLED = 1 / 8  # of a range; masks of 0 and 1 taken for bytes fill 1/255
SMALLEST_STD, LARGEST_STD, LARGEST_MEAN = 0.05, 20.0, 20.0  # of a feature of points


def check_range(value_range: object) -> None:
    """Refuse an option value_range that is given and is no range.

    Raises:
        UserError: naming it.
    """
    if value_range is not None and not _is_range(value_range):
        raise UserError(f"value_range must be two numbers, [low, high], low < high, got {value_range!r}")


def affine_of(value_range: tuple[float, float]) -> tuple[float, float]:
    """Return (scale, offset), by which scale * value + offset takes the range to [-1, 1]."""
    low, high = value_range
    scale = 2 / (high - low)
    return scale, -1 - low * scale


def check_filled(survey: Survey, value_range: tuple[float, float], where: str) -> None:
    """Refuse images whose values leave a range, or fill so little of it that they are hardly seen.

    Args:
        survey: of all samples.
        value_range: what will become [-1, 1].
        where: what the user calls them.

    Raises:
        UserError: naming the range that they have, and the setting.
    """
    (bottom, top), (low, high) = value_range, (survey.low, survey.high)
    if low < bottom or high > top:
        raise UserError(f"{where} goes from {low:g} to {high:g}, outside value_range {[bottom, top]}")
    if high - low < LEAST_FILLED * (top - bottom):
        raise UserError(
            f"{where} goes from {low:g} to {high:g}, a small part of its range, {bottom:g} to {top:g}, so "
            f"black and white would hardly differ; set prepare.source_options.value_range to "
            f"[{low:g}, {high:g}]"
        )


def check_scale(points: Running, where: str, what: str, remedy: str) -> None:
    """Refuse points, of D features, of another scale than the noise that becomes them: mean 0, deviation 1.

    Args:
        points: mean and scatter of the features.
        where: the source as the user named it.
        what: a feature is called.
        remedy: against another scale.

    Raises:
        UserError: naming the feature that is furthest off, what it has, and the setting.
    """
    if points.count < 2:
        return
    mean, std = torch.as_tensor(points.mean), points.std
    off = ((std < SMALLEST_STD) | (std > LARGEST_STD) | (mean.abs() > LARGEST_MEAN)).nonzero().flatten()
    if not len(off):
        return
    worst = int(off[(std[off].clamp(min=1e-30).log().abs() + mean[off].abs().log1p()).argmax()])
    if std[worst] == 0:
        raise UserError(f"{where}: {what} {worst} is {mean[worst]:g} in all samples; remove it")
    raise UserError(
        f"{where}: {len(off)} of {len(mean)} {what}s are not of the scale of noise, which has mean 0 and "
        f"standard deviation 1; {what} {worst} has {mean[worst]:g} and {std[worst]:g}; {remedy}"
    )


def _is_range(value: object) -> bool:
    """Return whether `value` is two finite numbers, the smaller first."""
    if not isinstance(value, list | tuple) or len(value) != 2:
        return False
    numbers = all(isinstance(end, int | float) and not isinstance(end, bool) for end in value)
    return numbers and all(map(math.isfinite, value)) and value[0] < value[1]
