"""Two interleaved half circles; the curve of scikit-learn's make_moons, centred and twice as large."""

import numpy as np

from fewstep.data._toy import Toy


class TwoMoons(Toy):
    """An upper and a lower half circle of radius 2 with normal noise of 0.1."""

    pieces = 2

    def draw(self, piece: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """See Toy.draw."""
        angle = np.pi * random.random(len(piece))
        upper = np.stack([np.cos(angle) - 0.5, np.sin(angle) - 0.25], axis=1)
        moon = np.where(piece[:, None] == 0, upper, -upper)  # each is the other turned half round
        return 2 * moon + 0.1 * random.standard_normal(moon.shape)
