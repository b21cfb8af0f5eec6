"""Samples as one picture."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

from fewstep.lazy import lazy_imports
from fewstep.metrics.saved import levels

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

with lazy_imports():
    import torch
    from PIL import Image


def data_url(png: bytes) -> str:
    """Return the bytes of a PNG as an address that holds the picture, for pages that are one file."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def write(samples: Tensor, file: Path) -> None:
    """Write images (n, channels, height, width) in [-1, 1] as one PNG, in about as many rows as columns."""
    count, channels, height, width = samples.shape
    columns = round(count**0.5) or 1
    rows = -(-count // columns)
    pixels = levels(samples.float()).byte()
    tiles = torch.full((rows * columns, channels, height, width), 255, dtype=torch.uint8)
    tiles[:count] = pixels
    tiled = tiles.view(rows, columns, channels, height, width).permute(0, 3, 1, 4, 2)
    picture = tiled.reshape(rows * height, columns * width, channels).expand(-1, -1, 3).contiguous()
    Image.fromarray(picture.numpy()).save(file, "PNG")
