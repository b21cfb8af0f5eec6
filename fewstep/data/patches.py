"""Patches: small squares of the two colour photos that come with scikit-learn; no download."""

from dataclasses import dataclass
from pathlib import Path

from fewstep.data._options import check_whole
from fewstep.data._samples import SMALLEST_IMAGE, Samples
from fewstep.errors import UserError
from fewstep.lazy import brought_by, lazy_imports

with lazy_imports():
    import torch

with lazy_imports(error_callback=brought_by("images", what="patches", library="scikit-learn and Pillow")):
    from sklearn import datasets

LARGEST = 64  # still 120 of them


@dataclass(frozen=True, kw_only=True)
class Patches:
    """Squares side by side, of a temple and of a flower, without classes.

    They don't overlap, so what is held out is not seen in training; those of one flat colour are left out.
    The photos (427x640) are by danielbuechele and vultilion, licensed CC BY 2.0.

    Raises:
        UserError: if side is no whole number from 8 to 64.
    """

    side: int = 16
    """Height and width of a patch in pixels."""

    def __post_init__(self) -> None:
        check_whole("side", self.side, SMALLEST_IMAGE)
        if self.side > LARGEST:
            raise UserError(
                f"side must be at most {LARGEST}, so that enough patches are left, got {self.side}"
            )

    def load(self, root: Path) -> Samples:
        """Return the patches, uint8 (n, 3, side, side), of each photo row by row; 2080 of 16x16.

        Raises:
            UserError: if scikit-learn or Pillow is not installed.
        """
        photos = datasets.load_sample_images().images
        cut = [
            torch.from_numpy(photo.copy()).unfold(0, self.side, self.side).unfold(1, self.side, self.side)
            for photo in photos
        ]
        data = torch.cat([squares.flatten(0, 1) for squares in cut])
        pixels = data.flatten(2)
        flat = (pixels.amax(2) == pixels.amin(2)).all(1)
        return Samples(data=data[~flat].contiguous(), affine=(2 / 255, -1.0))
