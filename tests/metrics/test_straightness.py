import math

import oracles
import pytest
import torch

from fewstep import grids, solvers
from fewstep.flow import FieldFlow
from fewstep.grids import Grid
from fewstep.metrics.straightness import endpoint_rmse, turns


def test_gaussian_has_its_closed_form():
    oracle = oracles.gaussian([1.0, -2.0, 0.0], [0.5, 1.0, 2.0])
    noise = oracle.noise(2000)
    noise = noise / noise.square().mean(dim=0).sqrt()  # S is quadratic in the noise: no sampling error
    found = turns(oracle.flow(), noise, grids.uniform(200, solver="heun")).straightness
    assert found == pytest.approx(oracle.straightness / 3, rel=1e-3)
    assert oracle.straightness == pytest.approx((2 - math.pi / 2) * 3.5)
    first_order = turns(oracle.flow(), noise, grids.uniform(400, solver="heun")).first_order
    assert first_order == pytest.approx(oracle.first_order / 3, rel=5e-3)


def test_f_is_zero_exactly_where_the_noise_pointed_back_to_is_constant():
    straight = FieldFlow(lambda x, t: torch.full_like(x, 30.0))
    late = FieldFlow(lambda x, t: torch.where(t < 0.5 - 1e-6, 0.0, 2.0)[:, None] + 0 * x)
    noise, grid = torch.zeros(2, 3).double(), grids.uniform(40)
    assert turns(straight, noise, grid).first_order == pytest.approx(0, abs=1e-12)
    assert turns(late, noise, grid).first_order == pytest.approx(0.25)  # it points to 0, then to -1


def test_straightness_is_the_mean_squared_distance_of_slopes_from_their_mean():
    oracle, grid = oracles.two_gaussians(), Grid((0.0, 0.1, 0.5, 1.0))
    noise = oracle.noise(20)
    states = list(solvers.trajectory(oracle.flow(), noise, grid))
    expected = 0.0
    for i, h in enumerate((0.1, 0.4, 0.5)):
        slope = (states[i + 1] - states[i]) / h
        expected += h * float((states[-1] - states[0] - slope).square().mean())
    assert turns(oracle.flow(), noise, grid).straightness == pytest.approx(expected)


def test_straight_lines_score_zero_even_in_single_precision_and_from_a_late_start():
    flow = FieldFlow(lambda x, t: torch.full_like(x, 30.0), t_start=0.25)
    noise = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    assert turns(flow, noise, grids.uniform(50, start=0.25)).straightness == pytest.approx(0, abs=1e-6)


def test_straightness_depends_on_how_a_flow_bends_and_not_on_where_it_starts():
    """A flow that moves at speed 1, then 3, half the time each, is 1 from its mean all along."""
    for start in (0.0, 0.5):
        flow = FieldFlow(lambda x, t, m=(1 + start) / 2: torch.where(t < m - 1e-6, 1.0, 3.0)[:, None] + 0 * x)
        grid = grids.uniform(40, start=start)
        assert turns(flow, torch.zeros(2, 3).double(), grid).straightness == pytest.approx(1)


def test_conditions_reach_the_flow():
    flow = FieldFlow(lambda x, t, label: t[:, None] * label[:, None] + 0 * x)
    noise = torch.zeros(2, 3).double()
    two, four = (
        turns(flow, noise, grids.uniform(50), label=torch.full((2,), n).double()).straightness for n in (2, 4)
    )
    assert four == pytest.approx(4 * two)
    assert two == pytest.approx(4 / 12, rel=1e-3)  # the variance of 2 t


def test_endpoint_rmse_is_a_mean_over_all_numbers():
    samples = torch.zeros(2, 1, 2, 2)
    reference = samples.clone()
    reference[0] = 3.0
    assert endpoint_rmse(samples, reference) == pytest.approx((9 / 2) ** 0.5)


@pytest.mark.parametrize(("steps", "gain"), [(1, 0.0), (2, 0.5), (4, 0.72)])
def test_endpoint_rmse_of_few_euler_steps_on_the_unit_gaussian(steps, gain):
    oracle = oracles.gaussian([0.0], [1.0])
    noise = oracle.noise(500)
    noise = noise / noise.square().mean().sqrt()
    few = solvers.integrate(oracle.flow(), noise, grids.uniform(steps)).x
    assert endpoint_rmse(few, oracle.position(noise, 1.0)) == pytest.approx(1 - gain, abs=1e-3)
