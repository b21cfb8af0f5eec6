from itertools import permutations

import pytest
import torch
from missing import make_missing

from fewstep import registry
from fewstep.errors import UserError

COUPLINGS = registry.available("fewstep.couplings")


def coupling(name):
    return registry.find("fewstep.couplings", name)()


def draw(n, shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, *shape, generator=generator), torch.randn(n, *shape, generator=generator) + 1


def cost(noise, data):
    return float((noise - data).square().sum())


def test_the_couplings_are_these():
    assert COUPLINGS == ["independent", "optimal_transport"]


@pytest.mark.parametrize("name", COUPLINGS)
@pytest.mark.parametrize("n", [1, 3, 5, 64])
def test_every_coupling_uses_each_noise_once(name, n):
    noise, data = draw(n, (1, 4, 4))
    paired = coupling(name).pair(noise, data)
    assert sorted(paired.flatten(1).tolist()) == sorted(noise.flatten(1).tolist())


def test_independent_leaves_the_noise_alone():
    noise, data = draw(8, (2,))
    assert torch.equal(coupling("independent").pair(noise, data), noise)


@pytest.mark.parametrize("shape", [(2,), (3, 8, 8)])
@pytest.mark.parametrize("n", [3, 5, 7])
def test_optimal_transport_costs_the_least_of_all_pairings(shape, n):
    noise, data = draw(n, shape)
    paired = coupling("optimal_transport").pair(noise, data)
    least = min(cost(noise[list(order)], data) for order in permutations(range(n)))
    assert cost(paired, data) == pytest.approx(least, rel=1e-5)


def test_no_two_of_many_points_would_better_exchange_their_noise():
    noise, data = draw(128, (3, 8, 8))
    paired = coupling("optimal_transport").pair(noise, data)
    costs = torch.cdist(data.flatten(1).double(), paired.flatten(1).double()).square()
    assert (costs + costs.T - costs.diag() - costs.diag()[:, None]).min() > -1e-9
    assert cost(paired, data) < cost(noise, data)


def test_optimal_transport_puts_shuffled_points_back():
    points, _ = draw(50, (2,))
    assert torch.equal(coupling("optimal_transport").pair(points.flip(0), points), points)


def test_optimal_transport_pairs_points_that_repeat():
    noise = torch.zeros(6, 2)
    assert torch.equal(coupling("optimal_transport").pair(noise, noise), noise)


def test_a_missing_library_is_named_with_its_extra(monkeypatch):
    make_missing(monkeypatch, "scipy.optimize", "fewstep.couplings.optimal_transport")
    with pytest.raises(UserError, match=r"fewstep\[metrics\]"):
        coupling("optimal_transport").pair(*draw(3, (2,)))
