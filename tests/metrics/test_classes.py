import numpy as np
import pytest

from fewstep.metrics.classes import class_shares, largest_share_difference


def test_shares_count_absent_classes_too():
    assert class_shares(np.array([0, 2, 2, 2]), 4).tolist() == [0.25, 0, 0.75, 0]


def test_largest_share_difference_is_that_of_the_worst_class():
    labels, reference = np.array([0, 0, 0, 1]), np.array([0, 0, 0, 0, 1, 1, 1, 2])
    shares = class_shares(reference, 3)
    assert largest_share_difference(labels, shares) == pytest.approx(0.25)
    assert largest_share_difference(reference, shares) == 0
