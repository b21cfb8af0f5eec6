"""What searches find on flows whose best grids are known."""

from itertools import pairwise
from math import cos, pi, tan

import numpy as np
import oracles
import pytest
import torch
from asking import about, about_noise

from fewstep import spacings
from fewstep.errors import UserError
from fewstep.flow import FieldFlow
from fewstep.grids import Grid
from fewstep.searches.bellman import Bellman
from fewstep.searches.bellman_plain import BellmanPlain
from fewstep.searches.coordinate_descent import CoordinateDescent
from fewstep.searches.edm import Edm
from fewstep.searches.gits import Gits
from fewstep.searches.log_snr import LogSnr
from fewstep.searches.optimal_steps import OptimalSteps
from fewstep.searches.quantile import Quantile
from fewstep.searches.tan import SCALES, Tan
from fewstep.searches.uniform import Uniform
from fewstep.searching.ends import endpoint_squares
from fewstep.searching.jumps import jumps
from fewstep.solvers import integrate

STEPS = (2, 4, 8)


def scalar(std, **more):
    """A question about the flow to N(0, std^2) in one dimension."""
    problem = about(oracles.gaussian([0.0], [std]).flow(), shape=(1,), batch=256, truth_steps=1000)
    return problem if not more else about(problem.flow, shape=(1,), batch=256, **more)


def tangents(std, steps):
    return [0.0, *(1 / (1 + std * tan((1 - i / steps) * pi / 2)) for i in range(1, steps)), 1.0]


def gain(std, grid):
    flow = oracles.gaussian([0.0], [std]).flow()
    return integrate(flow, torch.ones(1, 1, dtype=torch.float64), grid).x.item()


@pytest.mark.parametrize("std", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("steps", STEPS)
def test_tangents_are_exact_for_gaussians_and_their_gain_is_known(std, steps):
    grid = Grid(spacings.tangent(steps, scale=std))
    assert grid.times == pytest.approx(tangents(std, steps))
    assert gain(std, grid) == pytest.approx(std * cos(pi / 2 / steps) ** steps, rel=1e-12)


@pytest.mark.parametrize("std", [0.5, 1.0, 2.0])
def test_tan_finds_the_scale_of_the_data(std):
    assert std in SCALES
    for steps, grid in Tan().search(scalar(std, budgets=STEPS, truth_steps=1000)).grids.items():
        assert grid.times == pytest.approx(tangents(std, steps), abs=1e-12)


@pytest.mark.parametrize("std", [0.5, 1.0])
@pytest.mark.parametrize("search", [CoordinateDescent(noises=8), OptimalSteps(fine_steps=100, noises=8)])
def test_what_looks_at_the_end_finds_the_tangents_to_the_resolution_of_its_grid(std, search):
    found = search.search(scalar(std, budgets=STEPS, truth_steps=1000)).grids
    for steps, grid in found.items():
        assert np.abs(np.array(grid.times) - tangents(std, steps)).max() < 0.02
        best = std * cos(pi / 2 / steps) ** steps
        assert best - 2e-3 * std < gain(std, grid) <= best + 1e-9


def test_tangents_from_a_start_that_is_not_pure_noise():
    grid = Grid(spacings.tangent(6, start=0.2, scale=0.5))
    assert grid.times[0] == 0.2
    others = [Grid((0.2, *np.linspace(0.2, 1, 7)[1:-1], 1.0)), Grid((0.2, *grid.times[1:5], 0.97, 1.0))]
    ends = [gain(0.5, other) for other in others]
    assert gain(0.5, grid) > max(ends)  # all end too near to zero


@pytest.mark.parametrize(
    ("steps", "times"),
    [
        (4, (0, 0.0933, 0.6803, 0.998, 1)),
        (8, (0, 0.0278, 0.068, 0.1774, 0.4373, 0.789, 0.966, 0.998, 1)),
    ],
)
def test_edm_levels_in_canonical_time(steps, times):
    grid = Edm().search(about(budgets=(steps,))).grids[steps]
    assert grid.times == pytest.approx(times, abs=5e-5)
    denoiser = FieldFlow(lambda x, t: x, t_start=1 / 81, t_end=1 / 1.002)
    from_start = Edm().search(about(denoiser, budgets=(steps,))).grids[steps]
    assert from_start.times == pytest.approx((0.0123, *times[1:]), abs=5e-5)


def test_log_snr_steps_are_equal_factors_of_sigma():
    grid = LogSnr(sigma_max=10, sigma_min=0.1).search(about(budgets=(5,))).grids[5]
    levels = [(1 - t) / t for t in grid.times[1:-1]]
    assert [a / b for a, b in pairwise(levels)] == pytest.approx([10**0.5] * 3)
    assert levels[-1] == pytest.approx(0.1)


def test_uniform_is_equal_steps():
    grid = Uniform().search(about(FieldFlow(lambda x, t: x, t_start=0.2), budgets=(4,))).grids[4]
    assert grid.times == pytest.approx((0.2, 0.4, 0.6, 0.8, 1.0))


def test_quantiles_share_the_square_root_of_how_the_scalar_flow_bends():
    """x'' = x0 s^2 / sigma_t^3, so the density is its square root: (E x''^2)^(1/4)."""
    t = np.linspace(0, 1, 2001)
    root = np.sqrt(1 / np.sqrt((1 - t) ** 2 + t**2) ** 3)
    mass = np.concatenate([[0], np.cumsum(root[1:] + root[:-1])])
    for steps, grid in Quantile(fine_steps=400, noises=16).search(scalar(1.0, budgets=(4, 9))).grids.items():
        expected = np.interp(np.linspace(0, 1, steps + 1), mass / mass[-1], t)
        assert grid.times == pytest.approx(expected, abs=4e-3)


def test_quantiles_are_where_the_timesteps_of_bellman_go():
    problem = scalar(1.0, budgets=(24,))
    ours = Quantile(fine_steps=400).search(problem).grids[24]
    bellman = Bellman(fine_steps=400).search(problem).grids[24]
    assert bellman.times == pytest.approx(ours.times, abs=0.01)


def test_a_flow_that_does_not_bend_gets_equal_steps():
    straight = FieldFlow(lambda x, t: torch.ones_like(x))
    grid = Quantile().search(about(straight, budgets=(4,))).grids[4]
    assert grid.times == pytest.approx((0, 0.25, 0.5, 0.75, 1))


def test_bellman_minimises_its_own_objective():
    for search in (Bellman(), BellmanPlain(), Bellman(fine_solver="heun")):
        problem = about(budgets=(1, 2, 4, 8, 100), batch=128)
        result = search.search(problem)
        for steps, grid in result.grids.items():
            timesteps = [result.jumps.fine.times.index(t) for t in grid.times]
            even = [round(i * 100 / steps) for i in range(steps + 1)]
            costs = [sum(result.jumps.costs[j, k] for j, k in pairwise(w)) for w in (timesteps, even)]
            assert result.objective[steps] == pytest.approx(costs[0], rel=1e-12)
            assert costs[0] <= costs[1]
    assert result.objective[100] > 0  # a Heun trajectory lets single Euler steps cost something


def test_bellman_draws_from_the_noise_of_the_search():
    noise = torch.cat([part for part, _ in about(seed=7).noise.batches("search", 20)])
    problem = about_noise(oracles.two_gaussians().flow(), noise)
    fine = problem.spaced("uniform", 10, solver="euler")
    expected = jumps(problem, fine, cost="squared", noises=20)
    result = Bellman(fine_steps=10, noises=20).search(about(seed=7))
    assert result.jumps.costs == pytest.approx(expected.costs)
    assert Bellman(fine_steps=10, noises=20).search(about(seed=8)).objective != result.objective


def test_gits_costs_are_of_states_over_t_and_later_jumps_weigh_more():
    problem = about(budgets=(3,))
    result = Gits(fine_steps=12, noises=8).search(problem)
    times = np.array(result.jumps.fine.times)
    assert times[1:-1] == pytest.approx(spacings.edm(12)[1:-1])
    timesteps = [result.jumps.fine.times.index(t) for t in result.grids[3].times]
    paid = [1.15**m * result.jumps.costs[j, k] / times[k] for m, (j, k) in enumerate(pairwise(timesteps))]
    assert result.objective[3] == pytest.approx(sum(paid))


@pytest.mark.parametrize("solver", ["heun", "ab2"])
def test_steps_are_chosen_for_the_solver_that_takes_them(solver):
    """A grid for Euler steps is not the one for another solver; each is better for its own."""
    problem = about(budgets=(4,), batch=256, solver=solver)
    own = Bellman().search(problem).grids[4]
    euler = Bellman().search(about(budgets=(4,), batch=256)).grids[4]
    assert own.times != euler.times
    theirs = Grid(euler.times, solver)
    mine, other = endpoint_squares(problem, [own, theirs], "report", 512).mean(dim=1)
    assert mine < other


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: Bellman(noises=0), "noises must be 1 or more, got 0"),
        (lambda: Bellman(fine_steps=0), "fine_steps must be 1 or more, got 0"),
        (lambda: Bellman(discount=0), "discount must be a positive number, got 0"),
        (lambda: Bellman(fine_solver="hein"), "unknown fine_solver 'hein'; did you mean 'heun'"),
        (lambda: Bellman(fine_solver="ab2"), "unknown fine_solver 'ab2'"),
        (lambda: Quantile(fine_steps=1), "fine_steps must be 2 or more"),
        (lambda: OptimalSteps(noises=0), "noises must be 1 or more"),
        (lambda: Tan(scale=-1), "scale must be a positive number, got -1"),
        (lambda: Edm(rho=0), "rho must be a positive number, got 0"),
        (lambda: LogSnr(sigma_min=1, sigma_max=0.5), "sigma_min must be above 0 and below sigma_max"),
        (lambda: CoordinateDescent(start=()), "start names no search"),
        (
            lambda: CoordinateDescent(start=("belman",)),
            "start: unknown candidate 'belman'; did you mean 'bellman'",
        ),
        (lambda: CoordinateDescent(start=("best",)), "start: unknown candidate 'best'"),
    ],
)
def test_options_that_cannot_be(make, told):
    with pytest.raises(UserError, match=told):
        make()
