from itertools import permutations

import numpy as np
import pytest

from fewstep.metrics import kernel


def brute_force(a, b):
    def k(x, y):
        return (x @ y / len(x) + 1) ** 3

    within = [np.mean([k(x, y) for x, y in permutations(side, 2)]) for side in (a, b)]
    return sum(within) - 2 * np.mean([k(x, y) for x in a for y in b])


def test_equals_the_sum_over_pairs(monkeypatch):
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(7, 3)), rng.normal(size=(11, 3)) + 0.5
    assert kernel.kernel_distance(a, b) == pytest.approx(brute_force(a, b))
    monkeypatch.setattr(kernel, "ROWS", 4)  # the same by any number of rows at once
    assert kernel.kernel_distance(a, b) == pytest.approx(brute_force(a, b))


def test_is_unbiased_at_any_size_where_the_laws_are_one():
    rng = np.random.default_rng(0)
    for n, m in ((5, 40), (40, 5)):
        draws = [kernel.kernel_distance(rng.normal(size=(n, 4)), rng.normal(size=(m, 4))) for _ in range(300)]
        assert abs(np.mean(draws)) < 4 * np.std(draws) / 300**0.5
        assert min(draws) < 0


def test_agrees_with_torchmetrics():
    import torch
    from torchmetrics.image.kid import poly_mmd

    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(50, 8)), rng.normal(size=(50, 8)) * 1.5
    theirs = float(poly_mmd(torch.from_numpy(a), torch.from_numpy(b)))
    assert kernel.kernel_distance(a, b) == pytest.approx(theirs)


def test_has_the_bits_of_scikit_learn():
    from sklearn.metrics.pairwise import polynomial_kernel

    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(1000, 64)), rng.normal(size=(450, 64)) + 0.5
    assert kernel.between(a, b) == float(polynomial_kernel(a, b, degree=3, coef0=1).sum() / (1000 * 450))
