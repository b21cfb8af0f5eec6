"""Digits: 1797 grey 8x8 images of handwritten digits that come with scikit-learn; no download."""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from fewstep.data._samples import Samples
from fewstep.lazy import brought_by, lazy_imports

with lazy_imports():
    import numpy as np
    import torch


@dataclass(frozen=True)
class Digits:
    """The digits, values 0..16 scaled to [-1, 1]; ten classes. It has no options."""

    def load(self, root: Path) -> Samples:
        """Return the 1797 images, (1797, 1, 8, 8).

        Raises:
            UserError: if scikit-learn is not installed.
        """
        rows = torch.from_numpy(np.loadtxt(_file(), delimiter=","))  # 64 pixels and the class
        return Samples(
            data=rows[:, :-1].float().reshape(-1, 1, 8, 8) / 8 - 1,
            label=rows[:, -1].long(),
            class_names=tuple(str(digit) for digit in range(10)),
        )


def _file() -> Path:
    """Return the file of scikit-learn, which takes longer to import than most stages of a toy chain take."""
    found = find_spec("sklearn")
    if not (found and found.origin):
        missing = ModuleNotFoundError("No module named 'sklearn'")
        brought_by("images", what="the digits", library="scikit-learn")(missing)
    return Path(found.origin).parent / "datasets" / "data" / "digits.csv.gz"
