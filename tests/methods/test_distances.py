"""What a distance is least for: the answer of pairs; the mean or a median of independent noise and data."""

import pytest
import torch
from oracles import two_gaussians

from fewstep.training import distances

DATA = two_gaussians().sample(2000)


def least(distance, targets):
    """Return the prediction (d,) with the least mean distance to targets (n, d)."""
    found = torch.zeros(targets.shape[1], dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([found], max_iter=500, line_search_fn="strong_wolfe", tolerance_grad=1e-12)

    def closure():
        optimiser.zero_grad()
        loss = distance(found - targets).mean()
        loss.backward()
        return loss

    optimiser.step(closure)
    return found.detach()


def spatial_median(points):
    """Weiszfeld's iteration."""
    found = points.mean(0)
    for _ in range(500):
        weights = 1 / (points - found).norm(dim=1).clamp(min=1e-12)
        found = (weights[:, None] * points).sum(0) / weights.sum()
    return found


def test_of_an_independent_coupling_huber_finds_the_spatial_median_and_l2_the_mean():
    """At t = 0 every data goes with the noise, so targets are data - noise; Lee et al. 2024, section 4."""
    targets = DATA - torch.tensor([0.3, -0.2], dtype=torch.float64)
    median, mean = spatial_median(targets), targets.mean(0)
    assert (median - mean).norm() > 0.2
    torch.testing.assert_close(least(distances.l2, targets), mean, rtol=0, atol=1e-6)
    torch.testing.assert_close(least(distances.huber, targets), median, rtol=0, atol=1e-3)
    each = least(distances.huber_each, targets)
    torch.testing.assert_close(each, targets.median(0).values, rtol=0, atol=5e-3)


@pytest.mark.parametrize("name", distances.DISTANCES)
def test_of_pairs_every_distance_finds_the_one_answer(name):
    answer = DATA[7]
    torch.testing.assert_close(
        least(distances.DISTANCES[name], answer.expand(50, 2)), answer, rtol=0, atol=1e-4
    )
