"""Noise of both signs: the same optimum, and gradients without its variance near the data."""

import pytest
import torch
from oracles import as_model, gaussian, two_gaussians
from test_fixed_points import CONVENTIONS, ORACLE, Shifted

from fewstep import paths, predictions, randomness
from fewstep.errors import UserError
from fewstep.methods._times import draw_times
from fewstep.methods.flow_matching import FlowMatching
from fewstep.noises import GAUSSIAN

GAMMA = {"name": "linear", "gamma": 2.0}


def gradients(method, n, *, path, prediction, oracle=ORACLE):
    """Return the derivatives (n,) of losses at the exact field by a shift of its output, and the times."""
    keys = randomness.keys_of(0, 0, n)
    model = Shifted(as_model(oracle, path=path, prediction=prediction), n)
    batch = method.prepare_batch({"data": oracle.sample(n)}, keys, GAUSSIAN)
    losses = method.loss({"student": model}, batch, "student", 0.0, keys)
    (found,) = torch.autograd.grad(losses.sum(), model.shift)
    return found, draw_times(method.times, model.config, keys)


@pytest.mark.parametrize(("path", "prediction"), [*CONVENTIONS, *((GAMMA, p) for p in predictions.PARTS)])
def test_nothing_pulls_away_from_the_exact_field(path, prediction):
    method = FlowMatching(antithetic=True)
    found, _ = gradients(method, 4000, path=path, prediction=prediction, oracle=two_gaussians())
    assert abs(found.mean()) < 4 * found.std() / 4000**0.5 + 1e-12


def test_the_loss_is_the_mean_over_both_signs():
    n, keys = 50, randomness.keys_of(0, 0, 50)
    model = as_model(gaussian([0.0, 1.0], [1.0, 2.0]), path=GAMMA, prediction="v")
    batch = FlowMatching().prepare_batch({"data": ORACLE.sample(n)}, keys, GAUSSIAN)
    asked = ("student", 0.0, keys)
    one, other = (
        FlowMatching().loss({"student": model}, batch | {"noise": sign * batch["noise"]}, *asked)
        for sign in (1, -1)
    )
    both = FlowMatching(antithetic=True).loss({"student": model}, batch, *asked)
    torch.testing.assert_close(both, (one + other) / 2, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_near_the_data_gradients_of_the_velocity_vary_far_less(gamma):
    n, path = 20_000, {"name": "linear", "gamma": gamma}
    spread = {}
    for antithetic in (False, True):
        found, t = gradients(FlowMatching(antithetic=antithetic), n, path=path, prediction="velocity")
        bins = {"all": t >= 0, "near": t > 0.9, "nearest": t > 0.99}
        # two calls a sample: so many fewer samples can be had for the same calls
        spread[antithetic] = {name: found[chosen].var() * (1 + antithetic) for name, chosen in bins.items()}
    one, both = spread[False], spread[True]
    assert both["all"] < 0.7 * one["all"]
    assert both["near"] < 0.3 * one["near"]
    assert both["nearest"] < 0.1 * one["nearest"]
    assert both["nearest"] < 2 * both["near"]  # it has a bound
    assert one["nearest"] > 3 * one["near"]


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_two_noises_have_the_law_and_the_mean_target_of_one_and_a_target_that_varies_more(gamma):
    """Given the data, (x, target) of two noises are jointly normal; the mean of the target is the one's."""
    path = paths.get({"name": "linear", "gamma": gamma})
    t = torch.linspace(0.02, 0.98, 25, dtype=torch.float64)
    second = (gamma * t * (1 - t)).sqrt()
    change = gamma * (1 - 2 * t) / (2 * second)
    data, x = torch.full((25, 1), 0.7).double(), torch.linspace(-2, 2, 25).double()[:, None]
    c = path.coefficients(t)
    variance, covariance = (1 - t) ** 2 + second**2, -(1 - t) + second * change
    torch.testing.assert_close(c.b**2, variance, rtol=1e-12, atol=1e-12)
    noise = (x - t[:, None] * data) / c.b[:, None]
    slope = (covariance / variance)[:, None]
    torch.testing.assert_close(path.sample(noise, data, t).velocity, data + slope * (x - t[:, None] * data))
    left = 1 + change**2 - covariance**2 / variance  # variance of the target of two noises, given x and data
    assert (left > 0.1).all()


def test_noise_that_is_paired_with_data_has_one_sign():
    with pytest.raises(UserError, match="coupling optimal_transport pairs it; set coupling to independent"):
        FlowMatching(antithetic=True, coupling="optimal_transport")
