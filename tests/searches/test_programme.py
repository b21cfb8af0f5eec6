"""The dynamic programme against published tables and against trying every route."""

from itertools import combinations, pairwise

import numpy as np
import pytest
import torch
from asking import about_noise
from hypothesis import given, settings
from hypothesis import strategies as st

from fewstep import grids
from fewstep.errors import UserError
from fewstep.flow import FieldFlow
from fewstep.searching.jumps import jumps
from fewstep.searching.programme import best_routes, best_routes_after


def exact_scalar_costs(std, steps):
    """Costs on the exact flow to N(0, std^2), whose standard deviation is the state."""
    t = np.linspace(0, 1, steps + 1)
    sigma = np.sqrt((1 - t) ** 2 + (t * std) ** 2)
    slope = (t * std**2 - (1 - t)) / sigma
    costs = (sigma[None, :] - sigma[:, None] - (t[None, :] - t[:, None]) * slope[:, None]) ** 2
    costs[np.tril_indices(steps + 1)] = np.inf
    return costs


def slope_of(std):
    return lambda t: (t * std**2 - (1 - t)) / ((1 - t) ** 2 + (t * std) ** 2)


def euler_gain(std, timesteps, steps=100):
    times, slope = [k / steps for k in timesteps], slope_of(std)
    return np.prod([1 + (t_next - t) * slope(t) for t, t_next in pairwise(times)])


@pytest.mark.parametrize(
    ("std", "budget", "inner", "cost", "gain"),
    [
        (1, 2, (55,), "1.190e-01", 0.4901),
        (1, 4, (31, 53, 74), "1.490e-02", 0.7265),
        (1, 8, (16, 29, 40, 51, 62, 73, 85), "1.872e-03", 0.8555),
        (0.1, 4, (75, 89, 95), "4.413e-04", 0.0721),
        (2, 4, (20, 39, 62), "3.320e-02", 1.4424),
    ],
)
def test_timesteps_on_the_exact_gaussian_flow(std, budget, inner, cost, gain):
    route = best_routes(exact_scalar_costs(std, 100), [budget])[budget]
    assert route.timesteps == (0, *inner, 100)
    assert f"{route.cost:.3e}" == cost
    assert euler_gain(std, route.timesteps) == pytest.approx(gain, abs=5e-5)


def test_timesteps_on_the_euler_trajectory():
    slope = slope_of(1)
    flow = FieldFlow(lambda x, t: slope(t)[:, None] * x)
    noise = torch.ones(1, 1, dtype=torch.float64)
    costs = jumps(about_noise(flow, noise), grids.uniform(100), cost="squared", noises=1).costs
    route = best_routes(costs, [4])[4]
    assert route.timesteps == (0, 30, 52, 73, 100)
    assert f"{route.cost:.3e}" == "1.355e-02"


def brute_force(costs, budget):
    last = len(costs) - 1
    routes = ((0, *inner, last) for inner in combinations(range(1, last), budget - 1))
    return min(sum(costs[j, k] for j, k in pairwise(route)) for route in routes)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(0, 5), min_size=78, max_size=78))
def test_every_budget_is_the_best_of_all_routes(numbers):
    costs = np.full((13, 13), np.inf)
    costs[np.triu_indices(13, 1)] = numbers  # small whole numbers: many ties
    routes = best_routes(costs, range(1, 13))
    for budget, (timesteps, cost) in routes.items():
        assert len(timesteps) == budget + 1
        assert (timesteps[0], timesteps[-1]) == (0, 12)
        assert all(j < k for j, k in pairwise(timesteps))
        assert cost == sum(costs[j, k] for j, k in pairwise(timesteps)) == brute_force(costs, budget)


def test_more_steps_never_cost_more():
    routes = best_routes(exact_scalar_costs(1, 40), range(1, 41))
    totals = [routes[budget].cost for budget in range(1, 41)]
    assert all(later <= earlier for earlier, later in pairwise(totals))


def test_timesteps_are_denser_where_the_flow_bends():
    """Between many timesteps of a much finer grid lie equal parts of the integral of |x''|^(1/2)."""
    t = np.linspace(0, 1, 601)
    bend = 1 / np.sqrt((1 - t) ** 2 + t**2) ** 3  # second derivative of the scalar flow at std 1
    mass = np.concatenate([[0], np.cumsum(np.sqrt(bend[1:]) + np.sqrt(bend[:-1]))])
    quantiles = np.interp(np.linspace(0, 1, 25), mass / mass[-1], t)
    timesteps = np.array(best_routes(exact_scalar_costs(1, 600), [24])[24].timesteps) / 600
    assert np.abs(timesteps - quantiles).max() < 0.01


@settings(deadline=None, max_examples=20)
@given(st.lists(st.integers(0, 3), min_size=28, max_size=28), st.sampled_from([0.5, 1.0, 1.25]))
def test_a_discount_weighs_what_is_still_to_go(numbers, discount):
    costs = np.full((8, 8), np.inf)
    costs[np.triu_indices(8, 1)] = numbers

    def total(route):
        return sum(discount**m * costs[j, k] for m, (j, k) in enumerate(pairwise(route)))

    for budget, (timesteps, cost) in best_routes(costs, range(1, 8), discount=discount).items():
        ways = ((0, *inner, 7) for inner in combinations(range(1, 7), budget - 1))
        assert cost == pytest.approx(total(timesteps)) == pytest.approx(min(map(total, ways)))


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1.0, 1.25]))
def test_jumps_whose_cost_depends_on_the_timestep_before(seed, discount):
    draw, last = np.random.default_rng(seed), 6
    costs = np.where(np.triu(np.ones((7, 7)), 1), draw.integers(0, 4, (7, 7)), np.inf)
    i, j, k = np.indices((7, 7, 7))
    after = np.where((i < j) & (j < k), draw.integers(0, 4, (7, 7, 7)), np.inf)

    def total(route):
        later = zip(route, route[1:], route[2:], strict=False)
        rest = sum(discount ** (m + 1) * after[triple] for m, triple in enumerate(later))
        return costs[0, route[1]] + rest

    for budget, (timesteps, cost) in best_routes_after(costs, after, range(1, 7), discount=discount).items():
        ways = ((0, *inner, last) for inner in combinations(range(1, last), budget - 1))
        assert cost == pytest.approx(total(timesteps)) == pytest.approx(min(map(total, ways)))
        assert len(timesteps) == budget + 1


def test_both_programmes_agree_if_no_jump_depends_on_the_timestep_before():
    costs = exact_scalar_costs(1, 30)
    forgetful = np.where(np.isinf(costs)[:, :, None], np.inf, costs[None])
    assert best_routes_after(costs, forgetful, range(1, 9)) == best_routes(costs, range(1, 9))


@pytest.mark.parametrize(
    "programme", [best_routes, lambda c, b: best_routes_after(c, np.zeros((13,) * 3), b)]
)
def test_budget_outside_the_fine_grid(programme):
    with pytest.raises(UserError, match="budget 13 does not fit a fine grid of 12 steps"):
        programme(exact_scalar_costs(1, 12), [2, 13])
    with pytest.raises(UserError, match="budget 0 is no number of steps"):
        programme(exact_scalar_costs(1, 12), [2, 0])
