"""What the toys share: points in the plane, drawn from a law that needs no file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from fewstep import randomness
from fewstep.data._options import check_whole
from fewstep.data._samples import Samples
from fewstep.lazy import lazy_imports

with lazy_imports():
    import torch


@dataclass(frozen=True, kw_only=True)
class Toy:
    """A law on the plane whose pieces are the classes; subclasses give `draw`.

    Raises:
        UserError: if count is no whole number from 1, or seed none from 0.
    """

    pieces: ClassVar[int]
    """Number of modes, cells or moons."""
    count: int = 10_000
    """Points to draw."""
    seed: int = 0
    """Chooses the points."""

    def __post_init__(self) -> None:
        check_whole("count", self.count, 1)
        check_whole("seed", self.seed, 0)

    def draw(self, piece: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """Return a point (n, 2) of each of the pieces, integers (n,)."""
        raise NotImplementedError

    def load(self, root: Path) -> Samples:
        """Return the points, (count, 2), labelled by their piece."""
        random = randomness.generator(f"toy {type(self).__name__}", self.seed, 0)
        piece = random.integers(self.pieces, size=self.count)
        return Samples(
            data=torch.from_numpy(self.draw(piece, random)).float(),
            label=torch.from_numpy(piece),
            class_names=tuple(str(number) for number in range(self.pieces)),
        )
