"""Folder: a user's images in a folder; if they lie in subfolders, those are the classes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from fewstep import rows
from fewstep.data._captions import captions_file, captions_of
from fewstep.data._listing import classes_of, listed
from fewstep.data._options import check_whole
from fewstep.data._pictures import PictureRows, Pictures
from fewstep.data._ranges import BYTES, affine_of, check_filled, check_range
from fewstep.data._samples import SMALLEST_IMAGE, Samples, check_samples
from fewstep.data._survey import survey_of
from fewstep.errors import UserError
from fewstep.lazy import lazy_imports

with lazy_imports():
    import torch

if TYPE_CHECKING:
    from torch import Tensor


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
    texts: str | None = None
    """The column of metadata.csv or metadata.jsonl in the folder that says what an image shows, whose column
    file_name has its path; of which prepare.text_encoders make conditions."""
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
        table = None if self.texts is None else captions_file(folder, self.path)
        files, notes = listed(folder, self.path, read=[] if table is None else [table.name])
        said = [] if table is None else captions_of(files, table, str(self.texts))
        classes, more = classes_of(files, self.path)
        look = ImageSurvey(Pictures(folder, self.path, self.side, self.frames))
        survey = survey_of(look.parts(files))
        if look.left_out:
            notes.append(
                f"{self.path}: passed over {look.left_out} frames that are not the first of their file"
            )
        counts = zip(said, look.counts, strict=False)  # no texts have no counts
        texts = [text for text, count in counts for _ in range(count)]
        data = look.rows(files)
        number_of = {label: number for number, label in enumerate(classes)}
        owners = [number_of.get(file.partition("/")[0], 0) for file in files]
        samples = Samples(
            data=data,
            label=torch.from_numpy(np.repeat(owners, look.counts)) if classes else None,
            class_names=classes,
            texts=tuple(texts),
            affine=affine_of(self.value_range),
            notes=(*notes, *more),
        )
        check_samples(samples, self.path, data.name_of, survey)
        check_filled(survey, self.value_range, self.path)
        return samples


class ImageSurvey:
    """A pass over all pictures, which finds out what one does not tell: are they of one size, and grey?"""

    def __init__(self, pictures: Pictures) -> None:
        self.pictures = pictures
        self.counts: list[int] = []  # of the samples in each file
        self.left_out, self.grey = 0, True
        self.first: tuple[str, tuple[int, ...]] | None = None  # the first file, and its (H, W, 3)

    def parts(self, files: Sequence[str]) -> Iterator[Tensor]:
        """Yield all samples, uint8 (m, 3, H, W), a piece at a time.

        Raises:
            UserError: if a picture can't be read, or is of another size than the first.
        """
        held: list[np.ndarray] = []
        for file in files:
            used = 0
            for frame in self.pictures.frames_of(file):
                self._refuse_other_size(frame.pixels.shape, file, used)
                self.left_out += frame.of - 1 if self.pictures.frames == "first" else 0
                self.grey = self.grey and frame.grey
                used += 1
                held.append(frame.pixels)
                if len(held) * held[0].nbytes * 4 >= rows.PIECE_BYTES:
                    yield _stacked(held)
                    held = []
            self.counts.append(used)
        if held:
            yield _stacked(held)

    def rows(self, files: Sequence[str]) -> PictureRows:
        """Return the samples, once the pass is over."""
        assert self.first
        ends, (height, width, _) = np.cumsum(self.counts), self.first[1]
        return PictureRows(self.pictures, files, ends, (int(ends[-1]), 1 if self.grey else 3, height, width))

    def _refuse_other_size(self, shape: tuple[int, ...], file: str, frame: int) -> None:
        self.first = self.first or (file, shape)
        if shape != self.first[1]:
            (height, width, _), (first_height, first_width, _) = shape, self.first[1]
            name, first_name = self.pictures.name_of(file, frame), self.pictures.name_of(self.first[0], 0)
            raise UserError(
                f"{name} has {width}x{height} pixels, but {first_name} has {first_width}x{first_height}; "
                "make all of one size, or set side to crop and resize them"
            )


def _stacked(pixels: list[np.ndarray]) -> Tensor:
    """Return pictures (H, W, 3) as images (m, 3, H, W)."""
    return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)
