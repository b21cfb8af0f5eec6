"""Samplers keep the laws of Gaussians and mixtures, whatever noise they replace on the way."""

import importlib
import json
import math
from dataclasses import asdict, replace
from itertools import pairwise

import numpy as np
import oracles
import pytest
import torch
from flow_maps import as_flow_map

from fewstep import grids, randomness, registry, samplers
from fewstep.errors import UserError
from fewstep.flow import FieldFlow, as_flow
from fewstep.methods.flow_matching import FlowMatching
from fewstep.samplers import Estimate
from fewstep.samplers.reinterpolate import Reinterpolate
from fewstep.samplers.sde import DIFFUSIONS, Sde
from fewstep.solvers import integrate

NAMES = registry.available("fewstep.samplers")
MEAN, STD = 2.0, 0.8
GAUSSIAN = oracles.gaussian([MEAN], [STD])
MIXTURE = oracles.mixture([0.3, 0.7], [[-1.5], [1.0]], [0.4, 0.2])


def end_moments(sampler, steps):
    """Return mean and deviation at the end, exactly: on a Gaussian each step is affine in state and noise."""
    mean, variance = 0.0, 1.0
    for t, t_next in pairwise(np.linspace(0, 1, steps + 1)):

        def step(x, fresh, t=float(t), t_next=float(t_next)):
            x, at = torch.tensor([[x]], dtype=torch.float64), torch.tensor([t], dtype=torch.float64)
            data, noise = GAUSSIAN.posterior(x, at, 1 - at)
            fresh = torch.tensor([[fresh]], dtype=torch.float64)
            return float(sampler.step(Estimate(data=data, noise=noise), x, fresh, t, t_next))

        still = step(mean, 0.0)
        by_state, by_fresh = step(mean + 1, 0.0) - still, step(mean, 1.0) - still
        mean, variance = still, by_state**2 * variance + by_fresh**2
    return mean, variance**0.5


@pytest.mark.parametrize("strength", [0.5, 2.0])
@pytest.mark.parametrize("diffusion", DIFFUSIONS)
def test_any_diffusion_ends_at_the_gaussian_with_an_error_of_first_order(diffusion, strength):
    sampler, steps = Sde(diffusion=diffusion, strength=strength), (100, 200, 400)
    ends = [end_moments(sampler, n) for n in steps]
    errors = [abs(std - STD) for _, std in ends]
    assert [mean for mean, _ in ends] == pytest.approx([MEAN] * 3, abs=1e-9)
    assert errors[-1] < 2e-2
    assert -np.polyfit(np.log(steps), np.log(errors), 1)[0] == pytest.approx(1, abs=0.2)


def test_the_bound_is_least_where_the_divergence_is():
    for t in (0.1, 0.5, 0.9):
        eps = torch.linspace(0.01, 20, 20_000, dtype=torch.float64)
        least = eps[((1 + eps * t / (1 - t)) ** 2 / (4 * eps)).argmin()]
        assert DIFFUSIONS["bound"](t) == pytest.approx(float(least), abs=2e-3)


def test_noise_and_score_are_those_of_the_gaussian():
    """s = (t v - x) / (1 - t) = -(x - t mean) / ((1 - t)^2 + t^2 std^2)."""
    x = GAUSSIAN.noise(5)
    for t in (0.0, 0.3, 0.9):
        v = GAUSSIAN.velocity(x, torch.full((5,), t, dtype=torch.float64))
        score = -(x - t * MEAN) / ((1 - t) ** 2 + (t * STD) ** 2)
        torch.testing.assert_close((t * v - x) / (1 - t), score, rtol=1e-12, atol=1e-12)


def of_each_value(x, t):
    """The flow to a product of mixtures: one of each value."""
    return MIXTURE.velocity(x.reshape(-1, 1), t.repeat_interleave(x.shape[1])).reshape(x.shape)


def off_by(values):
    """Return the largest difference between the shares of values, and of the mixture, below any number."""
    sorted_values = values.flatten().sort().values
    share = torch.arange(1, len(sorted_values) + 1) / len(sorted_values)
    spread = (sorted_values[:, None] - MIXTURE.means.flatten()) / MIXTURE.stds
    return float(((MIXTURE.weights * torch.special.ndtr(spread)).sum(1) - share).abs().max())


@pytest.mark.parametrize(("diffusion", "strength"), [("bound", 1.0), ("noise", 0.5), ("middle", 2.0)])
def test_samples_of_a_mixture_have_its_law_whatever_the_diffusion(diffusion, strength):
    keys, noise = randomness.keys_of(0, 0, 20), torch.randn(20, 1000, dtype=torch.float64)
    times = grids.uniform(200).times
    made = samplers.sample(
        FieldFlow(of_each_value), noise, times, Sde(diffusion=diffusion, strength=strength), keys=keys
    )
    assert made.nfe == 200
    assert off_by(made.x) < 0.02  # 20000 values: 1.36 / sqrt(20000) = .0096 at 5 %
    flowed = integrate(FieldFlow(of_each_value), noise, grids.uniform(200)).x
    assert float((made.x - flowed).abs().mean()) > 0.1  # the map is not kept


def test_without_diffusion_it_is_euler():
    oracle = oracles.two_gaussians()
    noise, keys = oracle.noise(5), randomness.keys_of(0, 0, 5)
    made = samplers.sample(oracle.flow(), noise, grids.uniform(7).times, Sde(strength=0.0), keys=keys)
    torch.testing.assert_close(made.x, integrate(oracle.flow(), noise, grids.uniform(7)).x)


@pytest.mark.parametrize(("path", "prediction"), [("vp", "noise"), ("cosine", "v"), ("ve", "data")])
def test_every_path_and_prediction_is_sampled_alike(path, prediction):
    oracle, keys = oracles.two_gaussians(), randomness.keys_of(0, 0, 5)
    flow = as_flow(oracles.as_model(oracle, path=path, prediction=prediction))
    times, noise = grids.uniform(9, start=flow.t_start, end=flow.t_end).times, oracle.noise(5)
    here, plain = (samplers.sample(f, noise, times, Sde(), keys=keys).x for f in (flow, oracle.flow()))
    torch.testing.assert_close(here, plain, rtol=1e-4, atol=1e-4)


def test_where_noise_and_data_are_paired_reinterpolation_is_euler_and_elsewhere_it_is_not():
    noise, keys, one = GAUSSIAN.noise(50), randomness.keys_of(0, 0, 50), grids.uniform(1)
    straight = FieldFlow(
        lambda x, t: MEAN + (STD - 1) * (x - t[:, None] * MEAN) / (1 + t[:, None] * (STD - 1))
    )
    for steps in (1, 2, 5):
        times = grids.uniform(steps).times
        made = samplers.sample(straight, noise, times, Reinterpolate(), keys=keys).x
        torch.testing.assert_close(made, MEAN + STD * noise)
    curved = GAUSSIAN.flow()
    torch.testing.assert_close(
        samplers.sample(curved, noise, one.times, Reinterpolate(), keys=keys).x,
        integrate(curved, noise, one).x,
    )
    made = samplers.sample(curved, noise, grids.uniform(5).times, Reinterpolate(), keys=keys).x
    flowed = integrate(curved, noise, grids.uniform(5)).x
    assert float((made - flowed).abs().mean()) > 0.02


@pytest.mark.parametrize("name", NAMES)
def test_every_sampler_gives_a_sample_its_own_noise_in_any_batch(name):
    oracle, sampler = oracles.two_gaussians(), registry.find("fewstep.samplers", name)()
    noise, keys = oracle.noise(5), randomness.keys_of(3, 10, 15)
    times = grids.uniform(4).times
    five = samplers.sample(oracle.flow(), noise, times, sampler, keys=keys).x
    three = samplers.sample(oracle.flow(), noise[:3], times, sampler, keys=keys[:3]).x
    assert torch.equal(five[:3], three)


@pytest.mark.parametrize("name", NAMES)
def test_every_sampler_says_its_source_and_its_options_go_through_json(name):
    kind = registry.find("fewstep.samplers", name)
    assert "arXiv" in kind.__doc__
    assert importlib.import_module(kind.__module__).__doc__
    assert kind(**json.loads(json.dumps(asdict(kind())))) == kind()
    assert kind.learned_from in ("independent", "pairs")


def test_a_flow_map_is_refused():
    model, keys = as_flow_map(GAUSSIAN), randomness.keys_of(0, 0, 5)
    with pytest.raises(UserError, match="gives average velocities"):
        samplers.sample(as_flow(model), GAUSSIAN.noise(5), (0.0, 1.0), Sde(), keys=keys)


def test_a_student_of_its_own_grid_is_refused():
    model, own, keys = oracles.as_model(GAUSSIAN), grids.uniform(2), randomness.keys_of(0, 0, 5)
    model.config = replace(model.config, grid=own, trained_times="grid")
    with pytest.raises(UserError, match="trained for the steps of its own grid alone"):
        samplers.sample(as_flow(model), GAUSSIAN.noise(5), own.times, Sde(), keys=keys)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"diffusion": "boundd"}, "unknown diffusion 'boundd'; did you mean 'bound'"),
        ({"strength": -1.0}, "strength must be a number from 0, got -1.0"),
        ({"strength": math.inf}, "strength must be a number from 0, got inf"),
    ],
)
def test_wrong_options_of_samplers_are_refused(options, told):
    with pytest.raises(UserError, match=told):
        Sde(**options)


def test_reinterpolation_is_refused_of_a_model_that_did_not_learn_from_pairs():
    noise, keys, times = GAUSSIAN.noise(5), randomness.keys_of(0, 0, 5), grids.uniform(4).times
    model = oracles.as_model(GAUSSIAN)
    with pytest.raises(UserError, match="needs a model that learned from pairs, of which each noise has one"):
        samplers.sample(as_flow(model), noise, times, Reinterpolate(), keys=keys)
    model.config = replace(model.config, learned_from="pairs")
    assert samplers.sample(as_flow(model), noise, times, Reinterpolate(), keys=keys).nfe == 4
    samplers.sample(as_flow(oracles.as_model(GAUSSIAN)), noise, times, Sde(), keys=keys)


@pytest.mark.parametrize(
    ("learned_from", "told"),
    [
        ({"learned_from": "pairs"}, "which a model that learned from pairs does not have"),
        (
            FlowMatching(coupling="optimal_transport").trained(),
            "which a model whose noise went with its data",
        ),
    ],
)
def test_a_sampler_that_needs_the_score_is_refused_of_a_model_whose_noise_went_with_data(learned_from, told):
    model = oracles.as_model(GAUSSIAN)
    model.config = replace(model.config, **learned_from)
    noise, keys = GAUSSIAN.noise(5), randomness.keys_of(0, 0, 5)
    with pytest.raises(UserError, match=f"needs the score, {told}"):
        samplers.sample(as_flow(model), noise, grids.uniform(4).times, Sde(), keys=keys)
    model.config = replace(model.config, **FlowMatching().trained())
    assert samplers.sample(as_flow(model), noise, grids.uniform(4).times, Sde(), keys=keys).nfe == 4
