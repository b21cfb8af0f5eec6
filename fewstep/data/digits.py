"""Digits: 1797 grey 8x8 images of handwritten digits that come with scikit-learn; no download."""

from dataclasses import dataclass
from pathlib import Path

from etils.epy import lazy_imports

from fewstep.data._samples import Samples
from fewstep.extras import brought_by

with lazy_imports():
    import torch

with lazy_imports(error_callback=brought_by("images", what="the digits", library="scikit-learn")):
    from sklearn import datasets


@dataclass(frozen=True)
class Digits:
    """The digits, values 0..16 scaled to [-1, 1]; ten classes. It has no options."""

    def load(self, root: Path) -> Samples:
        """Return the 1797 images, (1797, 1, 8, 8).

        Raises:
            UserError: if scikit-learn is not installed.
        """
        digits = datasets.load_digits()
        return Samples(
            data=torch.from_numpy(digits.images).float()[:, None] / 8 - 1,
            label=torch.from_numpy(digits.target).long(),
            class_names=tuple(str(digit) for digit in range(10)),
        )
