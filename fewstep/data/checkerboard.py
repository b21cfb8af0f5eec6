"""A checkerboard: sharp edges and corners, which too few steps round off."""

import numpy as np

from fewstep.data._toy import Toy


class Checkerboard(Toy):
    """The eight filled unit squares of a 4x4 board on [-2, 2]^2, uniformly; (0, 0) is a corner of four."""

    pieces = 8

    def draw(self, piece: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """See Toy.draw."""
        row = piece // 2
        column = 2 * (piece % 2) + row % 2
        corner = np.stack([column, row], axis=1) - 2
        return corner + random.random(corner.shape)
