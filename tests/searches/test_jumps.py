"""The cost of jumps against its definition, state by state."""

import weakref
from itertools import combinations, pairwise

import numpy as np
import pytest
import torch
from asking import about_noise, images

from fewstep import grids, solvers
from fewstep.errors import UserError
from fewstep.flow import FieldFlow
from fewstep.grids import Grid
from fewstep.searching.checked import Checked
from fewstep.searching.fine import bends_of, states_along
from fewstep.searching.gram import jump_squares
from fewstep.searching.jumps import jumps

UNEVEN = (0.1, 0.11, 0.2, 0.35, 0.4, 0.6, 0.61, 0.8, 0.93, 1.0)
EVEN = grids.uniform(40)
FINE_SOLVERS = ["euler", "heun", "midpoint", "rk4"]


def measured(flow, fine, noise, *, cost="squared", batch=10, conditions=None, **more):
    problem = about_noise(flow, noise, batch=batch, conditions=conditions, **more)
    return jumps(problem, fine, cost=cost, noises=len(noise))


def far(timesteps, apart=1):
    return np.triu_indices(timesteps, apart)


def definition(flow, fine, noise, solver="euler"):
    """The distance, (n, K + 1, K + 1), between a jump's end and the fine state, jump by jump in float64."""
    states, _ = states_along(flow, fine, noise, {})
    off = np.full((len(noise), len(states), len(states)), np.inf)
    stepper = solvers.get(solver)
    for j, k in combinations(range(len(states)), 2):
        stepping = stepper if fine.times[k] <= flow.t_end else solvers.get("euler")
        end, _ = stepping.step(flow, states[j], fine.times[j], fine.times[k], None)
        off[:, j, k] = (end - states[k]).flatten(1).norm(dim=1)
    return off


class Recording(FieldFlow):
    """A flow that keeps what it answered."""

    def __init__(self, flow):
        super().__init__(flow.velocity)
        self.answers = []

    def __call__(self, x, t, **conditions):
        self.answers.append(super().__call__(x, t, **conditions))
        return self.answers[-1]


def published(grid, velocities):
    """Mean |x_k - x_j - (t_k - t_j) v_j|^2 in float64, on velocities as they are."""
    states = [torch.zeros_like(velocities[0], dtype=torch.float64)]
    for velocity, (t, t_next) in zip(velocities, pairwise(grid.times), strict=True):
        states.append(states[-1] + (t_next - t) * velocity.double())
    costs = np.full((len(states), len(states)), np.inf)
    for j, k in combinations(range(len(states)), 2):
        off = states[k] - states[j] - (grid.times[k] - grid.times[j]) * velocities[j].double()
        costs[j, k] = off.flatten(1).square().sum(1).mean()
    return costs


@pytest.mark.parametrize("grid", [EVEN, Grid(UNEVEN), grids.uniform(1), grids.uniform(2), grids.uniform(100)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-6)])
def test_costs_equal_the_published_ones_even_where_they_are_small(grid, dtype, tolerance):
    flow, noise = Recording(images().flow()), images().noise(21).to(dtype)
    found = measured(flow, grid, noise)
    assert {answer.dtype for answer in flow.answers} == {dtype}
    batches = [flow.answers[start : start + grid.steps] for start in range(0, 3 * grid.steps, grid.steps)]
    expected = published(grid, [torch.cat(parts) for parts in zip(*batches, strict=True)])
    entries = far(len(grid.times), 2)
    np.testing.assert_allclose(found.costs[entries], expected[entries], rtol=tolerance)
    assert (found.noises, found.fine) == (21, grid)


@pytest.mark.parametrize("fine_solver", FINE_SOLVERS)
@pytest.mark.parametrize("cost", ["squared", "plain"])
def test_costs_equal_jumps_that_are_made_whatever_solver_is_the_truth(fine_solver, cost):
    flow, noise, fine = images().flow(), images().noise(13), Grid(UNEVEN, fine_solver)
    off = definition(flow, fine, noise)
    expected = (off**2 if cost == "squared" else off).mean(axis=0)
    found = measured(flow, fine, noise, cost=cost)
    entries = far(len(UNEVEN), 2 if fine_solver == "euler" else 1)
    np.testing.assert_allclose(found.costs[entries], expected[entries], rtol=1e-9)
    if cost == "plain":
        error = off[(slice(None), *entries)].std(axis=0, ddof=1) / 13**0.5
        np.testing.assert_allclose(found.errors[entries], error, rtol=1e-6)


@pytest.mark.parametrize("fine_solver", ["heun", "rk4"])
def test_single_precision_keeps_what_a_fine_step_adds(fine_solver):
    """The step's own part is some 1e-6 of the state; in the difference of states float32 would lose it."""
    fine = grids.spaced("uniform", 100, start=0.0, end=1.0, solver=fine_solver)
    exact = measured(images().flow(), fine, images().noise(8)).costs
    single = measured(images().flow(), fine, images().noise(8).float()).costs
    np.testing.assert_allclose(single[far(101)], exact[far(101)], rtol=1e-2)


def ab2_definition(flow, fine, noise):
    """The mean square and the mean of an AB2 step's error, made after a step's slope of the trajectory's."""
    states, velocities = states_along(flow, fine, noise, {})
    squares, plain = (np.full((len(states),) * 3, np.inf) for _ in range(2))
    for i, j, k in combinations(range(len(states)), 3):
        carry = velocities[i], fine.times[j] - fine.times[i]
        name = "ab2" if fine.times[k] <= flow.t_end else "euler"
        end, _ = solvers.get(name).step(flow, states[j], fine.times[j], fine.times[k], carry)
        off = (end - states[k]).flatten(1).norm(dim=1)
        squares[i, j, k], plain[i, j, k] = off.square().mean(), off.mean()
    return squares, plain


@pytest.mark.parametrize("fine_solver", ["euler", "heun"])
@pytest.mark.parametrize("t_end", [1.0, 0.95])
def test_steps_of_ab2_equal_those_that_are_made(fine_solver, t_end):
    flow, noise = FieldFlow(images().velocity, t_end=t_end), images().noise(5)
    fine = Grid(UNEVEN, fine_solver)
    for cost, expected in zip(("squared", "plain"), ab2_definition(flow, fine, noise), strict=True):
        found = measured(flow, fine, noise, cost=cost, batch=3, solver="ab2").after
        entries = np.isfinite(expected)
        assert (np.isfinite(found) == entries).all()
        np.testing.assert_allclose(found[entries], expected[entries], rtol=1e-7, atol=1e-14)


@pytest.mark.parametrize("solver", ["heun", "midpoint", "rk4"])
@pytest.mark.parametrize("cost", ["squared", "plain"])
def test_steps_of_other_solvers_are_tried(solver, cost):
    flow, noise, fine = FieldFlow(images().velocity, t_end=0.95), images().noise(6), Grid(UNEVEN, "rk4")
    off = definition(flow, fine, noise, solver)
    found = measured(flow, fine, noise, cost=cost, batch=4, solver=solver).costs
    expected = (off**2 if cost == "squared" else off).mean(axis=0)
    np.testing.assert_allclose(found[far(10)], expected[far(10)], rtol=1e-9)


def test_a_jump_that_is_tried_asks_for_its_first_velocity_once():
    asked = []
    flow = FieldFlow(lambda x, t: asked.append(float(t[0])) or x)
    measured(flow, grids.uniform(4), images().noise(2), solver="heun")
    assert len(asked) == 4 + 4 * 5 // 2  # the trajectory, and the end of each jump


def test_a_distance_of_the_users_judges_jumps():
    flow, noise, fine = images().flow(), images().noise(7), Grid(UNEVEN)
    by_norm = measured(flow, fine, noise, cost="plain")
    by_hand = measured(flow, fine, noise, cost="plain", distance=lambda a, b: (a - b).flatten(1).norm(dim=1))
    np.testing.assert_allclose(by_hand.costs[far(10)], by_norm.costs[far(10)], atol=1e-12)
    largest = measured(
        flow, fine, noise, cost="plain", distance=lambda a, b: (a - b).abs().flatten(1).amax(1)
    )
    assert (largest.costs[far(10, 2)] < by_norm.costs[far(10, 2)]).all()


def test_the_trajectory_is_the_solvers():
    for name in FINE_SOLVERS:
        grid, flow, noise = Grid(UNEVEN, name), images().flow(), images().noise(3)
        ours, _ = states_along(flow, grid, noise, {})
        for state, expected in zip(ours, solvers.trajectory(flow, noise, grid), strict=True):
            torch.testing.assert_close(state, expected, rtol=1e-12, atol=1e-12)


def test_one_fine_euler_step_costs_nothing_and_no_step_goes_back():
    costs = measured(images().flow(), Grid(UNEVEN), images().noise(5).float()).costs
    timesteps = len(UNEVEN)
    assert (costs[np.arange(timesteps - 1), np.arange(1, timesteps)] == 0).all()
    assert np.isinf(costs[np.tril_indices(timesteps)]).all()
    assert (costs >= 0).all()


@pytest.mark.parametrize("solver", ["euler", "ab2", "heun"])
@pytest.mark.parametrize("cost", ["squared", "plain"])
def test_costs_do_not_depend_on_the_batch(solver, cost):
    noise, fine = images().noise(12).float(), grids.uniform(12, solver="heun")
    one, again, *others = (
        measured(images().flow(), fine, noise, batch=n, cost=cost, solver=solver) for n in (12, 12, 5, 1)
    )
    assert one.costs.tobytes() == again.costs.tobytes()
    for other in others:
        np.testing.assert_allclose(other.costs[far(13, 2)], one.costs[far(13, 2)], rtol=1e-4)


def test_a_straight_flow_costs_nothing():
    flow = FieldFlow(lambda x, t: torch.ones_like(x))
    assert (measured(flow, EVEN, torch.randn(4, 3)).costs[far(41)] == 0).all()


def test_rounding_never_makes_a_cost_negative():
    gram = np.array([[1.0, -2.0], [-2.0, 4 - 1e-9]])  # increments that cancel, all but for rounding
    assert jump_squares((0, 1 / 3, 2 / 3, 1), gram)[0, 3] == 0


def test_conditions_reach_the_flow():
    flow = FieldFlow(lambda x, t, label: label[:, None] * t[:, None] * torch.ones_like(x))
    labels = {"label": torch.tensor([1.0, 3.0])}
    for name in ("euler", "heun"):
        for fine in (grids.uniform(2), grids.uniform(2, solver="rk4")):
            found = measured(flow, fine, torch.zeros(2, 3), conditions=labels, solver=name)
            assert np.isfinite(found.costs[far(3)]).all()
    bend = measured(flow, grids.uniform(2), torch.zeros(2, 3), conditions=labels).costs[0, 2]
    assert bend == pytest.approx((0.5 * 0.5) ** 2 * 3 * (1 + 9) / 2)  # half a step at half the slope


def test_no_gradients_are_kept():
    slope, seen = torch.nn.Parameter(torch.tensor(2.0)), []

    def velocity(x, t):
        seen.append((slope * x).requires_grad)
        return slope * x

    for solver in ("euler", "heun"):
        measured(FieldFlow(velocity), grids.uniform(4), torch.randn(2, 2), solver=solver)
    assert not any(seen)


def test_a_jump_is_measured_once_for_all_callers():
    asked = []
    flow = FieldFlow(lambda x, t: asked.append(1) or x)
    problem = about_noise(flow, torch.randn(3, 2))
    first = jumps(problem, EVEN, cost="squared", noises=3)
    assert jumps(problem, EVEN, cost="squared", noises=3) is first
    assert len(asked) == 40


def test_velocities_that_are_not_finite_are_reported_with_their_time():
    flow = Checked(FieldFlow(lambda x, t: x / (t[:, None] - 0.5)))
    with pytest.raises(UserError, match=r"at t = 0\.5 the velocity is not finite"):
        measured(flow, EVEN, torch.ones(2, 2))


def test_memory_is_that_of_one_batch(monkeypatch):
    alive = []

    def watched(*batch):
        assert not [ref for ref in alive if ref() is not None]  # nothing is left of the batches before
        bends = bends_of(*batch)
        alive.append(weakref.ref(bends.increments))
        return bends

    monkeypatch.setattr("fewstep.searching.jumps.bends_of", watched)
    flow = FieldFlow(lambda x, t: x * t[:, None])
    for cost in ("squared", "plain"):
        measured(flow, grids.uniform(5), torch.randn(6, 50), cost=cost, batch=1)
    assert len(alive) == 12
