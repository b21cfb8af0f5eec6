"""LatentBound: how far images can be from the data if a model makes their latents."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class LatentBound:
    """The terms of W2(images, data) <= lost + stretch error e^(1/2 + growth).

    Source: Dao et al. 2023 (arXiv 2307.08698), theorem 1, with the two errors added as norms. From the same
    noise, the flows of the exact velocity and of the model's end within error e^(1/2 + growth) of each other
    (Gronwall's inequality), where `growth` is the largest rate at which the model's velocity spreads
    neighbours; a Lipschitz constant is no smaller. Decoding stretches that. The autoencoder loses the rest.
    """

    lost: float
    """The root of the mean squared norm of what encoding and decoding change of an image."""
    stretch: float
    """The Lipschitz constant of decoding."""
    error: float
    """The root of the mean, over times and points, of the squared norm of the velocity's error."""

    @classmethod
    def of(
        cls, *, rmse: float, image_numbers: int, stretch: float, loss: float, latent_numbers: int
    ) -> "LatentBound":
        """Return the terms from what stages measure, each a mean over the numbers of a sample.

        Args:
            rmse: Of decoded images.
            image_numbers: Numbers in an image.
            stretch: See `stretch`.
            loss: Held-out loss of flow matching in velocities, at uniform times on straight lines. It exceeds
                the squared error by the variance of these lines at a point, so the bound holds with it.
            latent_numbers: Numbers in a latent.
        """
        return cls(rmse * math.sqrt(image_numbers), stretch, math.sqrt(loss * latent_numbers))

    @property
    def slope(self) -> float:
        """What e^growth is multiplied by."""
        return self.stretch * self.error * math.exp(0.5)

    def at(self, growth: float) -> float:
        """Return the bound for a rate of growth."""
        return self.lost + self.slope * math.exp(growth)
