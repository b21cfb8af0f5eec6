"""The oracles agree with each other and with calculus; and the solvers with the oracles."""

import math

import numpy as np
import oracles
import pytest
import torch

from fewstep import grids, registry, solvers
from fewstep.flow import FieldFlow
from fewstep.grids import Grid
from fewstep.paths import like

TIMES = (0.0, 0.1, 0.5, 0.9, 1.0)


def at(t, x):
    return torch.full((len(x),), t, dtype=x.dtype)


def reference_endpoint(flow, noise, steps=1000):
    return solvers.integrate(flow, noise, grids.uniform(steps, solver="rk4")).x


def tangent_grid(steps, std):
    """The best Euler grid for one Gaussian: equal angles."""
    inner = [1 / (1 + std * math.tan((1 - i / steps) * math.pi / 2)) for i in range(1, steps)]
    return Grid((0.0, *inner, 1.0))


@pytest.mark.parametrize("t", TIMES)
def test_mixture_of_one_component_is_the_gaussian(t):
    one = oracles.mixture([1.0], [[1.0, -2.0, 0.5]], [0.7])
    gaussian = oracles.gaussian([1.0, -2.0, 0.5], [0.7] * 3)
    x = gaussian.noise(5)
    torch.testing.assert_close(one.velocity(x, at(t, x)), gaussian.velocity(x, at(t, x)))


@pytest.mark.parametrize("t", TIMES)
def test_gaussian_velocity_is_the_difference_of_its_posterior_means(t):
    gaussian = oracles.gaussian([[1.0, -2.0]], [[0.7, 2.0]])
    x = gaussian.noise(4)
    data, noise = gaussian.posterior(x, at(t, x), 1 - at(t, x))
    torch.testing.assert_close(gaussian.velocity(x, at(t, x)), data - noise)
    torch.testing.assert_close(t * data + (1 - t) * noise, x)


@pytest.mark.parametrize("t", [0.0, 0.3, 0.9])
def test_finite_set_is_the_softmax_over_its_points(t):
    points = torch.tensor([[1.0, 2.0], [-1.0, 0.0], [0.3, -2.0]], dtype=torch.float64)
    oracle = oracles.finite_set(points)
    x = oracle.noise(6)
    weights = torch.softmax(-(torch.cdist(x, t * points) ** 2) / (2 * (1 - t) ** 2), dim=1)
    expected = (weights @ points - x) / (1 - t)
    torch.testing.assert_close(oracle.velocity(x, at(t, x)), expected)
    assert oracle.flow().t_end < 1


def test_finite_set_flows_to_its_points():
    points = torch.tensor([[2.0, 2.0], [-2.0, 1.0]], dtype=torch.float64)
    oracle = oracles.finite_set(points)
    ends = solvers.integrate(oracle.flow(), oracle.noise(50), grids.uniform(400)).x
    distance = torch.cdist(ends, points).min(dim=1).values
    assert float(distance.median()) < 1e-3


def test_oracles_take_images_and_the_type_of_x():
    means = torch.tensor([1.0, -1.0]).reshape(2, 1, 1, 1).expand(2, 1, 4, 4)
    image, flat = (oracles.mixture([0.5, 0.5], m, [0.3, 0.6]) for m in (means, means.flatten(1)))
    x = image.noise(3).float()
    velocity = image.velocity(x, at(0.4, x))
    assert velocity.dtype == torch.float32
    torch.testing.assert_close(velocity.flatten(1), flat.velocity(x.flatten(1), at(0.4, x)))


def test_mixture_sample_has_the_moments_of_the_mixture():
    oracle = oracles.two_gaussians()
    sample, component = oracle.labelled_sample(40_000)
    share = torch.bincount(component) / len(component)
    torch.testing.assert_close(share.double(), oracle.weights, atol=0.01, rtol=0)
    torch.testing.assert_close(sample.mean(0), oracle.weights @ oracle.means, atol=0.03, rtol=0)
    first = sample[component == 0]
    torch.testing.assert_close(first.std(0), torch.full((2,), 0.5).double(), atol=0.01, rtol=0)


def test_gaussian_position_solves_its_differential_equation():
    gaussian = oracles.gaussian([1.0, -2.0], [0.5, 3.0])
    noise = gaussian.noise(7)
    for t in (0.2, 0.7):
        slope = (gaussian.position(noise, t + 1e-6) - gaussian.position(noise, t - 1e-6)) / 2e-6
        velocity = gaussian.velocity(gaussian.position(noise, t), at(t, noise))
        torch.testing.assert_close(slope, velocity, atol=1e-7, rtol=1e-7)
    torch.testing.assert_close(reference_endpoint(gaussian.flow(), noise), gaussian.position(noise, 1.0))


@pytest.fixture(scope="module")
def exact_end():
    oracle = oracles.two_gaussians()
    return reference_endpoint(oracle.flow(), oracle.noise(64))


@pytest.mark.parametrize("name", registry.available("fewstep.solvers"))
def test_error_falls_at_the_order_the_solver_declares(name, exact_end):
    oracle, steps = oracles.two_gaussians(), (32, 64, 128)
    errors = []
    for n in steps:
        end = solvers.integrate(oracle.flow(), oracle.noise(64), grids.uniform(n, solver=name)).x
        errors.append(float((end - exact_end).square().mean().sqrt()))
    slope = -np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert slope == pytest.approx(solvers.get(name).order, abs=0.2)


def test_solvers_declare_the_orders_of_the_textbooks():
    orders = {"euler": 1, "ab2": 2, "heun_pc": 2, "heun": 2, "midpoint": 2, "rk4": 4}
    assert {name: solvers.get(name).order for name in orders} == orders


@pytest.mark.parametrize("steps", [1, 2, 4, 8])
@pytest.mark.parametrize("std", [0.4, 1.0, 2.5])
def test_the_tangent_grid_shrinks_a_gaussian_by_the_known_gain(steps, std):
    gaussian = oracles.gaussian([0.7], [std])
    noise = gaussian.noise(6)
    end = solvers.integrate(gaussian.flow(), noise, tangent_grid(steps, std)).x
    gain = std * math.cos(math.pi / (2 * steps)) ** steps
    torch.testing.assert_close(end, 0.7 + gain * noise)


@pytest.mark.parametrize(
    ("steps", "uniform", "best"), [(2, 0.5000, 0.5000), (4, 0.7200, 0.7286), (8, 0.8508, 0.8562)]
)
def test_gains_on_the_unit_gaussian(steps, uniform, best):
    gaussian = oracles.gaussian([0.0], [1.0])
    one = torch.ones(1, 1, dtype=torch.float64)
    gains = [
        float(solvers.integrate(gaussian.flow(), one, grid).x)
        for grid in (grids.uniform(steps), tangent_grid(steps, 1.0))
    ]
    assert gains == pytest.approx([uniform, best], abs=5e-5)


def test_gaussian_straightness_and_loss_add_up_to_the_fall_of_transport_cost():
    gaussian = oracles.gaussian([1.0, -3.0], [0.5, 2.0])
    noise = gaussian.noise(100_000)
    fall = (gaussian.sample(100_000) - noise).square().sum(1) - (
        gaussian.position(noise, 1.0) - noise
    ).square().sum(1)
    error = float(fall.std()) / len(fall) ** 0.5
    assert gaussian.straightness + gaussian.irreducible_loss == pytest.approx(2 * 2.5)
    assert float(fall.mean()) == pytest.approx(2 * 2.5, abs=4 * error)


def test_reflow_lowers_transport_cost_by_straightness_plus_irreducible_loss():
    """E|X1 - X0|^2 - E|Z1 - Z0|^2 = S + V; Liu et al. 2022 (arXiv 2209.03003), section 3."""
    oracle, n, steps = oracles.two_gaussians(), 8000, 50
    noise, data = oracle.noise(n, seed=1), oracle.sample(n, seed=2)
    middles = [(i + 0.5) / steps for i in range(steps)]  # the midpoint rule over time
    _, *states, end = solvers.trajectory(oracle.flow(), noise, Grid((0.0, *middles, 1.0), solver="rk4"))
    total = (data - noise).square().sum(1) - (end - noise).square().sum(1)
    for state, t in zip(states, middles, strict=True):
        on_path = t * data + (1 - t) * noise
        loss = (data - noise - oracle.velocity(on_path, at(t, data))).square().sum(1)
        bend = (end - noise - oracle.velocity(state, at(t, data))).square().sum(1)
        total = total - (loss + bend) / steps
    assert abs(float(total.mean())) < 4 * float(total.std()) / math.sqrt(n)
    assert float(total.std()) / math.sqrt(n) < 0.2  # or the test above would pass for anything


@pytest.mark.parametrize("name", registry.available("fewstep.solvers"))
def test_integrate_counts_what_it_asks_for(name):
    asked = []

    def velocity(x, t):
        asked.append(t)
        return torch.zeros_like(x)

    solution = solvers.integrate(FieldFlow(velocity), torch.zeros(3, 2), grids.uniform(5, solver=name))
    assert solution.nfe == len(asked) == solvers.velocities(name, 5)


def test_velocities_of_a_run_are_those_of_its_steps_and_of_a_first_step_without_a_past():
    asked = {name: solvers.velocities(name, 5) for name in ("euler", "ab2", "heun_pc", "heun", "rk4")}
    assert asked == {"euler": 5, "ab2": 5, "heun_pc": 6, "heun": 10, "rk4": 20}
    assert {name: solvers.steps_of(name, velocities) for name, velocities in asked.items()} == dict.fromkeys(
        asked, 5
    )
    assert solvers.steps_of("heun", 9) is None
    assert solvers.steps_of("heun_pc", 1) is None


@pytest.mark.parametrize("spread", [1.0, 6.0])
def test_heun_pc_is_of_order_two_on_unequal_steps(spread, exact_end):
    oracle, errors, steps = oracles.two_gaussians(), [], (32, 64, 128)
    for n in steps:
        times = [math.expm1(spread * i / n) / math.expm1(spread) for i in range(n)]
        end = solvers.integrate(oracle.flow(), oracle.noise(64), Grid((*times, 1.0), solver="heun_pc")).x
        errors.append(float((end - exact_end).square().mean().sqrt()))
    assert -np.polyfit(np.log(steps), np.log(errors), 1)[0] == pytest.approx(2, abs=0.2)


def test_what_heun_pc_predicts_are_the_states_of_ab2_on_equal_steps():
    oracle, predicted = oracles.two_gaussians(), []

    def velocity(x, t):
        predicted.append(x)
        return oracle.velocity(x, t)

    noise = oracle.noise(8)
    solvers.integrate(FieldFlow(velocity), noise, grids.uniform(6, solver="heun_pc"))
    ab2 = list(solvers.trajectory(oracle.flow(), noise, grids.uniform(6, solver="ab2")))
    for own, other in zip(predicted, ab2, strict=True):
        torch.testing.assert_close(own, other)


@pytest.mark.parametrize("name", registry.available("fewstep.solvers"))
def test_every_solver_is_exact_on_a_straight_flow(name):
    """As a reflowed Gaussian: its velocity is constant on each line."""
    mean, std = torch.tensor([1.0, -2.0]), torch.tensor([0.5, 3.0])

    def velocity(x, t):
        start = (x - like(t, x) * mean) / (1 + like(t, x) * (std - 1))
        return mean + (std - 1) * start

    noise = torch.randn(16, 2, dtype=torch.float64)
    end = solvers.integrate(FieldFlow(velocity), noise, grids.uniform(3, solver=name)).x
    torch.testing.assert_close(end, mean + std * noise)
