"""Folder: a user's images in a folder; if they lie in subfolders, those are the classes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from etils.epy import lazy_imports

from fewstep.data._listing import classes_of, listed
from fewstep.data._options import check_whole
from fewstep.data._ranges import BYTES, affine_of, check_filled, check_range
from fewstep.data._samples import SMALLEST_IMAGE, Samples, check_samples
from fewstep.errors import UserError
from fewstep.extras import brought_by

with lazy_imports():
    import torch

with lazy_imports(error_callback=brought_by("images", what="reading images", library="Pillow")):
    from PIL import Image, ImageOps, ImageSequence

GREY = ("1", "L", "LA")
COLOUR = ("P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
OTHER_VIEWS = ("ICNS", "ICO", "MPO", "PSD")
"""Formats whose further frames are the same picture in other sizes, from another lens, or its layers."""


@dataclass(frozen=True, kw_only=True)
class Folder:
    """Images of one size, in any format that Pillow reads, grey if all of them are; transparency is dropped.

    Other files are passed over and counted in the notes, and whatever has a name that starts with a dot is
    not part of the folder.

    Raises:
        UserError: if side is no whole number from 8, frames neither first nor all, or value_range no range.
    """

    path: str
    """Below the folder that holds data/, such as "data/cats"."""
    side: int | None = None
    """Crop each image to its central square and resize that to side x side; None: as they are."""
    frames: Literal["first", "all"] | None = None
    """Which frames or pages of a file are samples; None refuses files that hold several."""
    value_range: tuple[float, float] = BYTES
    """The range of the pixels' bytes, which becomes [-1, 1]; such as (0, 1) for masks of 0 and 1."""

    def __post_init__(self) -> None:
        if self.side is not None:
            check_whole("side", self.side, SMALLEST_IMAGE)
        if self.frames not in (None, "first", "all"):
            raise UserError(f"frames must be first or all, got {self.frames!r}")
        check_range(self.value_range)

    def load(self, root: Path) -> Samples:
        """Return the checked images, uint8, in the order of their paths.

        Raises:
            UserError: if there are none, one can't be read, they differ in size, a file holds several frames
                and `frames` is not set, their values fill little of value_range, a link is not to a file, or
                subfolders are splits.
        """
        folder = root / self.path
        if not folder.is_dir():
            raise UserError(f"there is no folder {self.path}; put it there")
        files, notes = listed(folder, self.path)
        classes, more = classes_of(files, self.path)
        pixels: list[np.ndarray] = []
        names: list[str] = []
        label: list[int] = []
        every_grey, left_out = True, 0
        for file in files:
            name = f"{self.path}/{file.as_posix()}"
            for number, (image, grey, count) in enumerate(self._frames(folder / file, name)):
                left_out += count - 1 if self.frames == "first" else 0
                pixels.append(image)
                names.append(f"{name}, frame {number}" if number else name)
                label += [classes.index(file.parts[0])] if classes else []
                every_grey = every_grey and grey
                self._refuse_other_size(image, pixels[0], names[-1], names[0])
        if left_out:
            notes.append(f"{self.path}: passed over {left_out} frames that are not the first of their file")
        images = np.stack(pixels).transpose(0, 3, 1, 2)
        samples = Samples(
            data=torch.from_numpy(np.ascontiguousarray(images[:, :1] if every_grey else images)),
            label=torch.tensor(label) if classes else None,
            class_names=classes,
            affine=affine_of(self.value_range),
            notes=(*notes, *more),
        )
        check_samples(samples, self.path, names)
        check_filled(samples.data, self.value_range, self.path)
        return samples

    def _refuse_other_size(self, image: np.ndarray, first: np.ndarray, name: str, first_name: str) -> None:
        if image.shape != first.shape:
            (height, width, _), (first_height, first_width, _) = image.shape, first.shape
            raise UserError(
                f"{name} has {width}x{height} pixels, but {first_name} has {first_width}x{first_height}; "
                "make all of one size, or set side to crop and resize them"
            )

    def _frames(self, path: Path, name: str) -> Iterator[tuple[np.ndarray, bool, int]]:
        """Yield what becomes of a file, its frames or the first of them, upright and resized.

        Yields:
            Pixels, uint8 (H, W, 3); whether they are grey; and how many frames the file holds.
        """
        try:
            with Image.open(path) as file:
                kind = file.format
                count = 1 if kind in OTHER_VIEWS else getattr(file, "n_frames", 1)
                if count > 1 and self.frames is None:
                    raise UserError(
                        f"{name} holds {count} frames; set prepare.source_options.frames to all, which makes "
                        "each a sample, or to first"
                    )
                for frame in ImageSequence.Iterator(file) if count > 1 and self.frames == "all" else [file]:
                    image = ImageOps.exif_transpose(frame)
                    if image.mode not in GREY + COLOUR:
                        raise UserError(f"{name} is of mode {image.mode}; save it with 8 bits a channel")
                    pixels = np.asarray(self._resized(image).convert("RGB"))
                    palette = image.mode in ("P", "PA") or kind == "GIF"  # whose colours may all be grey
                    grey = image.mode in GREY or (palette and bool((pixels == pixels[..., :1]).all()))
                    yield pixels, grey, count
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
