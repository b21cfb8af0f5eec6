"""Digits: 1797 grey 8x8 images of handwritten digits that come with scikit-learn; no download."""

from dataclasses import dataclass
from pathlib import Path

from fewstep.data._samples import Samples
from fewstep.errors import UserError


@dataclass(frozen=True)
class Digits:
    """The digits, values 0..16 scaled to [-1, 1]; ten classes. It has no options."""

    def load(self, root: Path) -> Samples:
        """Return the 1797 images, (1797, 1, 8, 8).

        Raises:
            UserError: if scikit-learn is not installed.
        """
        import torch

        try:
            from sklearn.datasets import load_digits
        except ImportError as error:
            raise UserError(
                "the digits come with scikit-learn; install it: pip install 'fewstep[images]'"
            ) from error
        digits = load_digits()
        return Samples(
            data=torch.from_numpy(digits.images).float()[:, None] / 8 - 1,
            label=torch.from_numpy(digits.target).long(),
            class_names=tuple(str(digit) for digit in range(10)),
        )
