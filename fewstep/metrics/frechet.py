"""Fréchet distance between two sets of features, from their means and covariances alone."""

from dataclasses import dataclass

import numpy as np

from fewstep.errors import UserError


@dataclass(frozen=True)
class Moments:
    """Count, mean and scatter of features; the sum of two is the moments of their union."""

    count: int
    mean: np.ndarray  # (d,)
    scatter: np.ndarray  # (d, d)  sum over samples of the outer product of the distance to the mean

    @classmethod
    def of(cls, features: np.ndarray) -> "Moments":
        """Return the moments of features (n, d).

        Raises:
            UserError: if a feature is not finite, as when the samples of a model have diverged.
        """
        if not np.isfinite(features).all():
            raise UserError("features are not finite; the samples they come from have diverged")
        mean = features.mean(axis=0)
        return cls(len(features), mean, (features - mean).T @ (features - mean))

    def __add__(self, other: "Moments") -> "Moments":
        """Chan, Golub and LeVeque 1983, eq. 2.1, in its matrix form."""
        count, apart = self.count + other.count, other.mean - self.mean
        mean = self.mean + apart * other.count / count
        scatter = self.scatter + other.scatter + np.outer(apart, apart) * self.count * other.count / count
        return Moments(count, mean, scatter)

    @property
    def covariance(self) -> np.ndarray:
        """The unbiased covariance, (d, d), of two or more."""
        assert self.count > 1
        return self.scatter / (self.count - 1)


def frechet_distance(a: Moments, b: Moments) -> float:
    """Return |mean_a - mean_b|^2 + tr(A + B - 2 (A B)^(1/2)), A and B the covariances.

    Dowson and Landau 1982. Squared, as is the custom, and biased upwards by an amount that falls roughly
    as 1 / n: compare only at equal n.
    """
    # torchmetrics' FrechetInceptionDistance gives the same number (tests hold it to that) but takes
    # features where a jackknife has moments: 33 ms against 11 ms for the 9 distances of 8 blocks of
    # 1000, and an import of 2 s. scipy's sqrtm of A B turns complex where covariances are singular;
    # the eigenvalues of A^(1/2) B A^(1/2) are the same and stay real.
    values, vectors = np.linalg.eigh(a.covariance)
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    overlap = np.sqrt(np.linalg.eigvalsh(root @ b.covariance @ root).clip(min=0)).sum()
    apart = np.square(a.mean - b.mean).sum()
    return float(apart + np.trace(a.covariance) + np.trace(b.covariance) - 2 * overlap)
