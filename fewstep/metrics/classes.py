"""Class shares: whether a model makes each kind of sample as often as the data holds it."""

import numpy as np


def class_shares(labels: np.ndarray, classes: int) -> np.ndarray:
    """Return the share of each class, (classes,), among labels, int64 (n,)."""
    return np.bincount(labels, minlength=classes) / len(labels)


def largest_share_difference(labels: np.ndarray, shares: np.ndarray) -> float:
    """Return how far the worst class's share among labels, (n,), is from that in `shares`, 0 to 1."""
    return float(np.abs(class_shares(labels, len(shares)) - shares).max())
