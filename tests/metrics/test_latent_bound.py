"""The bound of latent flow matching, on Gaussians whose distance is known."""

import math

import pytest
import torch
from oracles import as_model, gaussian

from fewstep import randomness
from fewstep.flow import FieldFlow
from fewstep.grids import uniform
from fewstep.methods.flow_matching import FlowMatching
from fewstep.metrics.latent_bound import LatentBound
from fewstep.solvers import integrate

SHIFT = torch.tensor([0.6, -0.8], dtype=torch.float64)  # of length 1


def bound(loss, **changes):
    told = {"rmse": 0.0, "image_numbers": 8, "stretch": 3.0, "latent_numbers": 2} | changes
    return LatentBound.of(loss=loss, **told)


def test_the_bound_of_a_constant_error_is_the_distance_times_its_factor():
    """A velocity that is off by SHIFT everywhere moves all samples by it; decoding triples that."""
    noise = torch.randn(10, 2, dtype=torch.float64)
    ends = [
        integrate(FieldFlow(lambda x, t, to=to: to.expand(len(x), 2)), noise, uniform(4)).x
        for to in (SHIFT, 0 * SHIFT)
    ]
    exact = 3 * float((ends[0] - ends[1]).norm(dim=1).mean())
    found = bound(loss=float(SHIFT.square().mean()))
    assert found.error == pytest.approx(1)
    assert found.at(0) == pytest.approx(exact * math.exp(0.5))
    assert bound(loss=0.5, rmse=0.1).at(0) == pytest.approx(0.1 * math.sqrt(8) + found.at(0))


def test_the_bound_holds_for_a_gaussian_with_the_held_out_loss():
    """A model of N(m + SHIFT, 1) where the data is N(m, 1): W2 is 1, and its rate of growth is 1, at data."""
    data = gaussian([1.0, -0.5], [1.0, 1.0])
    model = as_model(gaussian((data.mean + SHIFT).tolist(), [1.0, 1.0]))
    n = 40_000
    keys = randomness.keys_of(0, 0, n)
    batch = {"data": data.sample(n), "noise": data.noise(n)}
    loss = float(FlowMatching().loss({"student": model}, batch, "student", 0.0, keys).mean())
    t = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    slope = (2 * t - 1) / (2 * t**2 - 2 * t + 1)
    error = float((1 - t * slope).square().mean())  # times |SHIFT|^2
    assert slope.max() <= 1
    assert 2 * loss == pytest.approx(error + data.irreducible_loss, rel=0.02)
    with_error, with_loss = bound(loss=error / 2), bound(loss=loss)
    assert 3.0 <= with_error.at(growth=1) <= with_loss.at(growth=1)
    assert with_error.slope == pytest.approx(3 * math.sqrt(error) * math.exp(0.5))
