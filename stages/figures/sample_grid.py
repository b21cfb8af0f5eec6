"""Pictures of samples: a grid of images, or a scatter of points."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from fewstep.lazy import lazy_imports

with lazy_imports():  # images need no matplotlib, and points no pillow
    import torch
    from PIL import Image, ImageDraw, ImageFont
    from torch.nn import functional

    from stages.figures import figure

if TYPE_CHECKING:
    from torch import Tensor

    from fewstep.rows import Rows

    Labelled: TypeAlias = list[tuple[str, Tensor]]

TILE = 48  # pixels to which the side of a small image is enlarged, by a whole factor
LARGEST = 128  # pixels to which the longer side of a large image is averaged down
GAP, MARGIN, TEXT = 3, 10, 14  # pixels between images, around the grid, and of a label's height


def samples_shown(shape: tuple[int, ...]) -> int:
    """Return how many samples of that shape a row or panel shows well, and are soon made."""
    return max(4, min(12, 12 * LARGEST // max(shape[1:]))) if len(shape) == 3 else 500


def spread_over(data: Rows) -> Tensor:
    """Return as many samples (n, *shape) as a grid shows, at even distances: data may be sorted."""
    count = min(len(data), samples_shown(tuple(data.shape[1:])))
    return data[torch.tensor([number * len(data) // count for number in range(count)])]


def draw_sample_grid(path: Path, rows: Labelled, texts: Sequence[str] = ()) -> None:
    """Draw one labelled row of samples per entry, or a panel of points.

    Every row holds samples (n, *shape) of the same noises in the same order, so columns compare. Of images,
    `texts` says what those of a column are conditioned on.
    """
    if rows[0][1].dim() == 4:
        draw_image_grid(path, rows, texts)
    else:
        point_panels(path, rows)


def draw_image_grid(path: Path, rows: Labelled, texts: Sequence[str] = ()) -> None:
    """Draw images (n, C, H, W): small ones enlarged, pixel for pixel, and large ones reduced.

    Below them stands the text of each column, cut where the picture ends.
    """
    font = ImageFont.load_default(TEXT)
    left = MARGIN + int(max(font.getlength(label) for label, _ in rows)) + MARGIN
    tiles = [as_tiles(samples) for _, samples in rows]
    _, height, width, _ = tiles[0].shape
    columns = max(len(row) for row in tiles)
    told = [f"{number}: {' '.join(text.split())}" for number, text in enumerate(texts[:columns], start=1)]
    below = 2 * MARGIN + len(rows) * (height + GAP) - GAP
    size = (left + columns * (width + GAP) - GAP + MARGIN, below + len(told) * (TEXT + GAP))
    grid = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(grid)
    for number, ((label, _), row) in enumerate(zip(rows, tiles, strict=True)):
        top = MARGIN + number * (height + GAP)
        pen.text((left - MARGIN, top + height / 2), label, fill="#222222", font=font, anchor="rm")
        for column, tile in enumerate(row):
            grid.paste(Image.fromarray(tile), (left + column * (width + GAP), top))
    for number, text in enumerate(told):
        pen.text((MARGIN, below + number * (TEXT + GAP)), text, fill="#222222", font=font)
    grid.save(path)


def as_tiles(samples: Tensor) -> np.ndarray:
    """Return images (n, C, H, W) in [-1, 1] as RGB bytes (n, H, W, 3), of a size to look at.

    Grey, and the first channel where there are neither one nor three, becomes grey.
    """
    longest = max(LARGEST, *samples.shape[2:])
    height, width = (max(1, round(side * LARGEST / longest)) for side in samples.shape[2:])
    shown = functional.adaptive_avg_pool2d(samples.float(), (height, width))
    pixels = ((shown.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    colour = pixels if pixels.shape[-1] == 3 else np.repeat(pixels[..., :1], 3, axis=-1)
    factor = max(1, TILE // colour.shape[1])
    return colour.repeat(factor, axis=1).repeat(factor, axis=2)


def point_panels(path: Path, rows: Labelled) -> None:
    """Draw the first two features of points (n, D), a panel each, all with the limits of the first."""
    across = min(len(rows), 4)
    down = -(-len(rows) // across)
    drawing, axes = figure.pyplot.subplots(down, across, figsize=(2.3 * across, 2.5 * down), squeeze=False)
    reach = 1.3 * float(rows[0][1][:, :2].abs().max())
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, (label, points) in zip(axes.flat, rows, strict=False):
        axis.set_axis_on()
        axis.scatter(points[:, 0].tolist(), points[:, min(1, points.shape[1] - 1)].tolist(), s=3, alpha=0.4)
        axis.set(xlim=(-reach, reach), ylim=(-reach, reach), xticks=[], yticks=[], aspect="equal")
        axis.set_title(label, fontsize=9)
    drawing.tight_layout(pad=0.4)
    figure.save_figure(drawing, path)
