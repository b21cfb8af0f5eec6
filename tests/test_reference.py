"""The adaptive reference against exact endpoints."""

import oracles
import pytest
import torch

from fewstep import grids
from fewstep.errors import UserError
from fewstep.finite import NotFiniteError
from fewstep.flow import FieldFlow
from fewstep.reference import Adaptive, follow, reference
from fewstep.solvers import integrate


@pytest.mark.parametrize("tolerance", [1e-4, 1e-6, 1e-9])
def test_endpoint_is_exact_to_the_tolerance(tolerance):
    gaussian = oracles.gaussian([1.0, -2.0], [0.1, 1.5])
    noise = gaussian.noise(8)
    solution = reference(gaussian.flow(), noise, tolerance=tolerance)
    assert (solution.x - gaussian.position(noise, 1.0)).abs().max() < 50 * tolerance


def test_float32_stays_float32():
    gaussian = oracles.gaussian([[1.0, -2.0]], [[0.1, 1.5]])
    noise = gaussian.noise(8).float()
    x = reference(gaussian.flow(), noise).x
    assert x.dtype == torch.float32
    assert (x - gaussian.position(noise, 1.0)).abs().max() < 5e-5


def test_each_sample_of_a_batch_has_its_own_steps():
    """Others neither loosen its tolerance nor ask for more steps; the stiffest decides the calls."""

    def velocity(x, t, rate):
        return x * torch.sin(rate * t)[:, None]

    flow, noise = FieldFlow(velocity), torch.linspace(-2, 2, 60, dtype=torch.float64)[:, None]
    rate = torch.arange(60, dtype=torch.float64)
    among = reference(flow, noise, tolerance=1e-5, rate=rate)
    alone = [reference(flow, noise[i : i + 1], tolerance=1e-5, rate=rate[i : i + 1]) for i in range(60)]
    assert torch.equal(among.x, torch.cat([one.x for one in alone]))
    assert among.nfe == max(one.nfe for one in alone) > 2 * min(one.nfe for one in alone)


def test_a_network_has_the_same_samples_at_any_size_of_batch():
    """As far as its own sums don't depend on the size."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(3, 32), torch.nn.Tanh(), torch.nn.Linear(32, 2)).double()
    flow = FieldFlow(lambda x, t: 3 * network(torch.cat([x, t[:, None]], dim=1)))
    noise = torch.randn(64, 2, dtype=torch.float64)
    among = reference(flow, noise, tolerance=1e-5).x
    alone = torch.cat([reference(flow, noise[i : i + 1], tolerance=1e-5).x for i in range(64)])
    torch.testing.assert_close(alone, among, rtol=0, atol=1e-12)


@pytest.mark.parametrize("tolerance", [1e-4, 1e-6])
def test_each_sample_of_a_batch_meets_the_tolerance(tolerance):
    """One sample's data is so narrow that its velocity turns within the last hundredth; all are exact."""
    std = torch.ones(1000, 2, dtype=torch.float64)
    std[17] = 0.005
    gaussian = oracles.Gaussian(torch.zeros_like(std), std)
    noise = oracles.gaussian([0.0, 0.0], [1.0, 1.0]).noise(1000)
    exact = gaussian.position(noise, 1.0)
    flow = FieldFlow(lambda x, t, std: oracles.Gaussian(torch.zeros_like(std), std).velocity(x, t))
    error = (reference(flow, noise, tolerance=tolerance, std=std).x - exact).abs() / (1 + exact.abs())
    assert error[17].max() < 10 * tolerance
    assert error.max() < 10 * tolerance


def test_a_sample_that_is_not_finite_is_named_with_its_time():
    def velocity(x, t, limit):
        return torch.where((t > limit)[:, None], torch.nan, x)

    limit = torch.tensor([2.0, 2.0, 0.25, 2.0])
    with pytest.raises(NotFiniteError, match=r"at t = 0\.\d+ the velocity is not finite") as caught:
        reference(FieldFlow(velocity), torch.ones(4, 1), limit=limit)
    assert caught.value.rows == [2]
    assert 0.25 < caught.value.t < 0.6


def test_a_flow_that_needs_too_small_steps_is_refused():
    pole = FieldFlow(lambda x, t: x.sign() / (t[:, None] - 0.51371234567) ** 2)
    with pytest.raises(UserError, match=r"no step is small enough for tolerance 1e-05.*follow a grid"):
        reference(pole, torch.ones(1, 1, dtype=torch.float64), tolerance=1e-5)


def test_times_are_followed_whether_fixed_or_adaptive():
    gaussian = oracles.two_gaussians()
    noise, grid = gaussian.noise(5), grids.uniform(7, solver="heun")
    fixed, adaptive = (follow(gaussian.flow(), noise, times) for times in (grid, Adaptive(1e-5)))
    assert torch.equal(fixed.x, integrate(gaussian.flow(), noise, grid).x)
    assert fixed.nfe == 14
    assert torch.equal(adaptive.x, reference(gaussian.flow(), noise, tolerance=1e-5).x)


def test_calls_are_counted_and_never_beyond_the_end():
    oracle, times = oracles.finite_set([[2.0, 2.0], [-2.0, 1.0]]), []

    def velocity(x, t, shift):
        times.append(t.max().item())
        return oracle.velocity(x - shift, t)

    flow = FieldFlow(velocity, t_start=0.1, t_end=0.999)
    flow.nfe_per_velocity = 2
    noise, shift = oracle.noise(5), torch.full((5, 1), 0.25, dtype=torch.float64)
    solution = reference(flow, noise, shift=shift)
    assert solution.nfe == 2 * len(times)
    assert min(times) == 0.1
    assert max(times) <= 0.999
    fine = integrate(flow, noise, grids.uniform(200, start=0.1, solver="rk4"), shift=shift)
    torch.testing.assert_close(solution.x, fine.x, rtol=0, atol=1e-3)


def test_a_tolerance_below_the_precision_is_refused():
    with pytest.raises(UserError, match=r"tolerance 1e-08 is out of reach of torch\.float32"):
        reference(FieldFlow(lambda x, t: x), torch.zeros(1, 1), tolerance=1e-8)
