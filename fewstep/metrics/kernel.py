"""Kernel distance between two sets of features: unbiased, so that sets of any size compare."""

import numpy as np

ROWS = 2048  # of the kernel matrix held at once


def kernel_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Return the unbiased squared maximum mean discrepancy of features (n, d) and (m, d).

    The kernel is (x.y / d + 1)^3; Binkowski et al. 2018 (arXiv 1801.01401), section 4 and eq. 4.
    Around zero, so below it at times, where the sets have one law.
    """
    return within(a) + within(b) - 2 * between(a, b)


def within(a: np.ndarray) -> float:
    """Return the mean kernel over pairs of distinct samples of (n, d), n at least 2."""
    with_itself = ((np.square(a).sum(axis=1) / a.shape[1] + 1) ** 3).sum()
    n = len(a)
    return float((between(a, a) * n * n - with_itself) / (n * (n - 1)))


def between(a: np.ndarray, b: np.ndarray) -> float:
    """Return the mean kernel over all pairs of a sample of (n, d) and one of (m, d)."""
    # scikit-learn's polynomial_kernel gives the same bits after an import of 2 s, for which `evaluate` waits
    rows = (a[start : start + ROWS] for start in range(0, len(a), ROWS))
    return float(sum(_kernel(part, b).sum() for part in rows) / (len(a) * len(b)))


def _kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    values = a @ b.T
    values *= 1 / a.shape[1]
    values += 1
    values **= 3
    return values
