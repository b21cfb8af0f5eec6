"""Class shares: whether a model makes each kind of sample as often as the data holds it."""

import numpy as np


def class_shares(labels: np.ndarray, classes: int) -> np.ndarray:
    """Return the share of each class, (classes,), among labels, int64 (n,)."""
    return np.bincount(labels, minlength=classes) / len(labels)


def largest_share_difference(labels: np.ndarray, reference: np.ndarray, classes: int) -> float:
    """Return by how much the worst class's share differs between two sets of labels, 0 to 1."""
    apart = class_shares(labels, classes) - class_shares(reference, classes)
    return float(np.abs(apart).max())
