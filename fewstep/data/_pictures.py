"""Pictures: image files, and the samples that their frames are, decoded when they are asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from fewstep.errors import UserError
from fewstep.lazy import brought_by, lazy_imports

if TYPE_CHECKING:
    from torch import Tensor

with lazy_imports():
    import torch

with lazy_imports(error_callback=brought_by("images", what="reading images", library="Pillow")):
    from PIL import Image, ImageOps, ImageSequence

GREY = ("1", "L", "LA")
COLOUR = ("P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
OTHER_VIEWS = ("ICNS", "ICO", "MPO", "PSD")
"""Formats whose further frames are the same picture in other sizes, from another lens, or its layers."""


@dataclass(frozen=True)
class Frame:
    """A picture, upright and resized."""

    pixels: np.ndarray  # (H, W, 3) uint8
    grey: bool
    """Whether it is without colour."""
    of: int
    """How many frames its file holds."""


@dataclass(frozen=True)
class Pictures:
    """The image files of a folder, and how frames are taken of them."""

    folder: Path
    name: str
    """What the user calls the folder."""
    side: int | None
    """Crop each image to its central square and resize that to side x side; None: as they are."""
    frames: Literal["first", "all"] | None
    """Which frames of a file are samples; None refuses files that hold several."""

    def name_of(self, file: str, frame: int) -> str:
        """Return what the user calls a frame of a file."""
        return f"{self.name}/{file}, frame {frame}" if frame else f"{self.name}/{file}"

    def frames_of(self, file: str) -> Iterator[Frame]:
        """Yield what becomes of a file, named relative to the folder: its frames, or the first of them.

        Raises:
            UserError: if it can't be read, or holds several frames and nobody says which.
        """
        name = self.name_of(file, 0)
        try:
            with Image.open(self.folder / file) as opened:
                kind = opened.format
                count = 1 if kind in OTHER_VIEWS else getattr(opened, "n_frames", 1)
                if count > 1 and self.frames is None:
                    raise UserError(
                        f"{name} holds {count} frames; set prepare.source_options.frames to all, which makes "
                        "each a sample, or to first"
                    )
                every = count > 1 and self.frames == "all"
                for frame in ImageSequence.Iterator(opened) if every else [opened]:
                    image = ImageOps.exif_transpose(frame)
                    if image.mode not in GREY + COLOUR:
                        raise UserError(f"{name} is of mode {image.mode}; save it with 8 bits a channel")
                    pixels = np.asarray(self._resized(image).convert("RGB"))
                    palette = image.mode in ("P", "PA") or kind == "GIF"  # whose colours may all be grey
                    grey = image.mode in GREY or (palette and bool((pixels == pixels[..., :1]).all()))
                    yield Frame(pixels, grey, count)
        except UserError:
            raise
        except Exception as error:  # decoders raise whatever a damaged file leads to
            raise UserError(f"{name} can't be read as an image ({error}); replace or remove it") from error

    def _resized(self, image: Image.Image) -> Image.Image:
        if self.side is None:
            return image
        image = image if image.mode in ("L", "RGB") else image.convert("L" if image.mode in GREY else "RGB")
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        square = image.crop((left, top, left + side, top + side))
        return square.resize((self.side, self.side), Image.Resampling.LANCZOS)


@dataclass(frozen=True)
class PictureRows:
    """The frames of some files as rows, uint8; see fewstep.rows.Rows."""

    pictures: Pictures
    files: Sequence[str]
    ends: np.ndarray
    """One more than the number of the last sample of each file, (files,)."""
    shape: tuple[int, ...]
    """(n, C, H, W); grey if C is 1."""

    def __len__(self) -> int:
        """See Rows."""
        return self.shape[0]

    def __getitem__(self, numbers: Tensor) -> Tensor:
        """See Rows.

        Raises:
            UserError: if a file can't be read, or lost a frame or took another size since it was counted.
        """
        _, channels, height, width = self.shape
        increasing, back = numbers.unique(return_inverse=True)
        room = np.empty((len(increasing), height, width, channels), np.uint8)
        files, frames = self.places_of(increasing.numpy())
        row = 0
        for file, count in zip(*np.unique(files, return_counts=True), strict=True):
            wanted = frames[row : row + count].tolist()
            for number, frame in enumerate(self.pictures.frames_of(self.files[file])):
                if number == wanted[0]:
                    if frame.pixels.shape[:2] != (height, width):
                        break
                    room[row] = frame.pixels[..., :channels]
                    row += 1
                    wanted.pop(0)
                    if not wanted:
                        break
            if wanted:
                name = self.pictures.name_of(self.files[file], wanted[0])
                raise UserError(
                    f"{name} was {width}x{height} pixels when the images were counted, and now is not; leave "
                    "them as they are, and run it again"
                )
        return torch.from_numpy(room.transpose(0, 3, 1, 2).copy())[back]

    def places_of(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the file and the frame within it of each of these samples, int64 (m,)."""
        files = np.searchsorted(self.ends, numbers, side="right")
        begins = np.concatenate([[0], self.ends[:-1]])
        return files, numbers - begins[files]

    def name_of(self, number: int) -> str:
        """Return what the user calls a sample."""
        (file,), (frame,) = self.places_of(np.array([number]))
        return self.pictures.name_of(self.files[file], int(frame))
