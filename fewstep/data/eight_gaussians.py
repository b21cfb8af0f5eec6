"""Eight Gaussians on a circle around the origin: separate modes, so a missed one shows."""

import numpy as np

from fewstep.data._toy import Toy


class EightGaussians(Toy):
    """Modes of standard deviation 0.1 on a circle of radius 2, counted anticlockwise from (2, 0)."""

    pieces = 8

    def draw(self, piece: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """See Toy.draw."""
        angle = piece * (np.pi / 4)
        centre = 2 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
        return centre + 0.1 * random.standard_normal(centre.shape)
