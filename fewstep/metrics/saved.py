"""Samples as they are saved: images are measured in range and in 8 bits, as a file or a screen holds them."""

from torch import Tensor

LEVELS = 255  # steps of 8 bits from -1 to 1
ROUNDED = 1 / LEVELS  # how far beyond the range rounding alone brings a value back


def as_saved(images: Tensor) -> Tensor:
    """Return images, any shape, values meant for [-1, 1], clamped to it and rounded to 8 bits."""
    return ((images.clamp(-1, 1) + 1) * (LEVELS / 2)).round() * (2 / LEVELS) - 1


def outside(images: Tensor) -> float:
    """Return the share of values beyond [-1, 1] by more than half of an 8-bit level, 0 to 1."""
    return float((images.abs() > 1 + ROUNDED).double().mean())
