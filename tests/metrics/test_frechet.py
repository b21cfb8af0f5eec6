from functools import reduce
from operator import add

import numpy as np
import pytest
import torch

from fewstep.errors import UserError
from fewstep.metrics.frechet import Moments, frechet_distance


def with_moments(mean, covariance, n=200, seed=0):
    """Samples whose mean and covariance are exactly these."""
    raw = np.random.default_rng(seed).normal(size=(n, len(mean)))
    raw -= raw.mean(axis=0)
    whitened = raw @ np.linalg.inv(np.linalg.cholesky(np.cov(raw, rowvar=False))).T
    return whitened @ np.linalg.cholesky(covariance).T + mean


def test_aligned_gaussians():
    """|mean - mean'|^2 + sum (std - std')^2 where the covariances are diagonal."""
    a = with_moments([0.0, 1.0, 2.0], np.diag([1.0, 4.0, 9.0]))
    b = with_moments([1.0, 1.0, 0.0], np.diag([4.0, 4.0, 1.0]), n=333, seed=1)
    assert frechet_distance(Moments.of(a), Moments.of(b)) == pytest.approx(5 + 1 + 0 + 4)


def test_turned_gaussians_in_the_plane():
    """tr (A B)^(1/2) of 2x2 matrices is sqrt(tr AB + 2 sqrt(det AB))."""
    a, b = np.array([[2.0, 0.6], [0.6, 0.5]]), np.array([[1.0, -0.4], [-0.4, 3.0]])
    overlap = np.sqrt(np.trace(a @ b) + 2 * np.sqrt(np.linalg.det(a @ b)))
    expected = np.trace(a) + np.trace(b) - 2 * overlap
    moments = [Moments.of(with_moments([0.0, 0.0], c, seed=s)) for s, c in enumerate((a, b))]
    assert frechet_distance(*moments) == pytest.approx(expected)
    assert frechet_distance(*reversed(moments)) == pytest.approx(expected)


def test_singular_covariances_of_too_few_samples_give_a_distance():
    rng = np.random.default_rng(0)
    few, moved = rng.normal(size=(10, 64)), np.eye(64)[0] * 3
    assert frechet_distance(Moments.of(few), Moments.of(few)) == pytest.approx(0, abs=1e-4)
    assert frechet_distance(Moments.of(few), Moments.of(few + moved)) == pytest.approx(9, abs=1e-4)


def test_agrees_with_torchmetrics():
    from torchmetrics.image.fid import FrechetInceptionDistance

    class Identity(torch.nn.Module):
        num_features = 16

        def forward(self, x):
            return x

    rng = np.random.default_rng(0)
    real, fake = rng.normal(size=(300, 16)), rng.normal(size=(200, 16)) * 1.3 + 0.2
    metric = FrechetInceptionDistance(feature=Identity()).set_dtype(torch.float64)
    metric.update(torch.from_numpy(real), real=True)
    metric.update(torch.from_numpy(fake), real=False)
    distance = frechet_distance(Moments.of(real), Moments.of(fake))
    assert distance == pytest.approx(float(metric.compute()), rel=1e-8)


def test_moments_of_blocks_add_up_to_the_moments_of_all():
    rng = np.random.default_rng(0)
    blocks = [rng.normal(size=(n, 5)) + 100 * n for n in (2, 7, 30)]
    added, whole = reduce(add, map(Moments.of, blocks)), Moments.of(np.concatenate(blocks))
    assert added.count == whole.count == 39
    np.testing.assert_allclose(added.mean, whole.mean)
    np.testing.assert_allclose(added.covariance, np.cov(np.concatenate(blocks), rowvar=False))


def test_samples_that_diverged_are_named():
    with pytest.raises(UserError, match="not finite; the samples they come from have diverged"):
        Moments.of(np.array([[1.0, np.nan], [0.0, 1.0]]))
