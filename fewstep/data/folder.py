"""Folder: a user's images in a folder; if they lie in subfolders, those are the classes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from etils.epy import lazy_imports

from fewstep.data._options import check_whole
from fewstep.data._samples import SMALLEST_IMAGE, Samples, check_samples
from fewstep.errors import UserError
from fewstep.extras import brought_by
from fewstep.links import refuse_linked_folder

with lazy_imports():
    import torch

with lazy_imports(error_callback=brought_by("images", what="reading images", library="Pillow")):
    from PIL import Image, ImageOps

EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")
GREY = ("1", "L", "LA")
COLOUR = ("P", "RGB", "RGBA", "CMYK", "YCbCr")


@dataclass(frozen=True, kw_only=True)
class Folder:
    """Images of one size, grey if all of them are; transparency is dropped.

    Other files are ignored, and whatever has a name that starts with a dot.

    Raises:
        UserError: if side is no whole number from 8.
    """

    path: str
    """Below the folder that holds data/, such as "data/cats"."""
    side: int | None = None
    """Crop each image to its central square and resize that to side x side; None: as they are."""

    def __post_init__(self) -> None:
        if self.side is not None:
            check_whole("side", self.side, SMALLEST_IMAGE)

    def load(self, root: Path) -> Samples:
        """Return the checked images, uint8, in the order of their paths.

        Raises:
            UserError: if there are none, one can't be read, they differ in size, or a subfolder is a link.
        """
        folder = root / self.path
        if not folder.is_dir():
            raise UserError(f"there is no folder {self.path}; put it there")
        found = sorted(path.relative_to(folder) for path in folder.rglob("*"))
        seen = [path for path in found if not any(part.startswith(".") for part in path.parts)]
        for path in seen:
            refuse_linked_folder(folder / path, f"{self.path}/{path.as_posix()}")
        files = [p for p in seen if p.suffix.lower() in EXTENSIONS and (folder / p).is_file()]
        if not files:
            raise UserError(f"{self.path} is empty: it holds no images ({', '.join(EXTENSIONS)})")
        names = [f"{self.path}/{file.as_posix()}" for file in files]
        label, classes = self._labels(files, names)
        images = self._images([folder / file for file in files], names)
        samples = Samples(
            data=torch.from_numpy(images),
            label=None if label is None else torch.tensor(label),
            class_names=classes,
            affine=(2 / 255, -1.0),
        )
        return check_samples(samples, self.path, names)

    def _labels(self, files: list[Path], names: list[str]) -> tuple[list[int] | None, tuple[str, ...]]:
        """Return each image's class and the classes' names, the subfolders in order."""
        loose = [name for file, name in zip(files, names, strict=True) if len(file.parts) == 1]
        if len(loose) == len(files):
            return None, ()
        if loose:
            raise UserError(
                f"{loose[0]} lies beside subfolders that hold images; move it into its class's folder"
            )
        classes = tuple(sorted({file.parts[0] for file in files}))
        return [classes.index(file.parts[0]) for file in files], classes

    def _images(self, paths: list[Path], names: list[str]) -> np.ndarray:
        """Return the images, uint8 (n, C, H, W)."""
        pixels, grey = [], True
        for path, name in zip(paths, names, strict=True):
            image = self._open(path, name)
            grey = grey and image.mode in GREY
            pixels.append(np.asarray(image.convert("RGB")))
            if pixels[-1].shape != pixels[0].shape:
                height, width, _ = pixels[-1].shape
                first_height, first_width, _ = pixels[0].shape
                raise UserError(
                    f"{name} has {width}x{height} pixels, but {names[0]} has {first_width}x{first_height}; "
                    "make all of one size, or set side to crop and resize them"
                )
        images = np.stack(pixels).transpose(0, 3, 1, 2)
        return np.ascontiguousarray(images[:, :1] if grey else images)

    def _open(self, path: Path, name: str) -> Image.Image:
        """Return one image, upright, decoded and resized."""
        try:
            with Image.open(path) as file:
                image = ImageOps.exif_transpose(file)
        except UserError:
            raise
        except Exception as error:  # decoders raise whatever a damaged file leads to
            raise UserError(f"{name} can't be read as an image ({error}); replace or remove it") from error
        if image.mode not in GREY + COLOUR:
            raise UserError(f"{name} is of mode {image.mode}; save it with 8 bits a channel")
        if self.side is None:
            return image
        image = image if image.mode in ("L", "RGB") else image.convert("L" if image.mode in GREY else "RGB")
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        square = image.crop((left, top, left + side, top + side))
        return square.resize((self.side, self.side), Image.Resampling.LANCZOS)
