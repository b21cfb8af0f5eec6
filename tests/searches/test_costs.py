"""The cost of jumps against its definition, state by state."""

from itertools import combinations, pairwise

import numpy as np
import oracles
import pytest
import torch

from fewstep import grids, solvers
from fewstep.errors import UserError
from fewstep.flow import FieldFlow
from fewstep.grids import Grid
from fewstep.searches._costs import costs_of, jump_costs

UNEVEN = Grid((0.1, 0.11, 0.2, 0.35, 0.4, 0.6, 0.61, 0.8, 0.93, 1.0))
EVEN = grids.uniform(40)


def images():
    """A flow to two clouds of 2 x 3 x 3 images."""
    means = torch.linspace(-1, 1, 36).reshape(2, 2, 3, 3)
    return oracles.mixture([0.3, 0.7], means, [0.4, 0.6])


def batches_of(noise, size):
    return [(part, {}) for part in noise.split(size)]


class Recording(FieldFlow):
    """A flow that keeps what it answered."""

    def __init__(self, flow):
        super().__init__(flow.velocity)
        self.answers = []

    def __call__(self, x, t, **conditions):
        self.answers.append(super().__call__(x, t, **conditions))
        return self.answers[-1]


def definition(grid, velocities):
    """The published cost, mean |x_k - x_j - (t_k - t_j) v_j|^2, pair by pair in float64."""
    states = [torch.zeros_like(velocities[0], dtype=torch.float64)]
    for velocity, (t, t_next) in zip(velocities, pairwise(grid.times), strict=True):
        states.append(states[-1] + (t_next - t) * velocity.double())
    costs = np.full((len(states), len(states)), np.inf)
    for j, k in combinations(range(len(states)), 2):
        off = states[k] - states[j] - (grid.times[k] - grid.times[j]) * velocities[j].double()
        costs[j, k] = off.flatten(1).square().sum(1).mean()
    return costs


def two_steps_or_more(n):
    return np.triu_indices(n, 2)


@pytest.mark.parametrize("grid", [EVEN, UNEVEN, grids.uniform(1), grids.uniform(2), grids.uniform(100)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-6)])
def test_costs_equal_the_definition_even_where_they_are_small(grid, dtype, tolerance):
    flow, noise = Recording(images().flow()), images().noise(21).to(dtype)
    matrix = jump_costs(flow, grid, batches_of(noise, 10))
    assert {answer.dtype for answer in flow.answers} == {dtype}
    batches = [flow.answers[start : start + grid.steps] for start in range(0, 3 * grid.steps, grid.steps)]
    expected = definition(grid, [torch.cat(parts) for parts in zip(*batches, strict=True)])
    far = two_steps_or_more(len(grid.times))
    np.testing.assert_allclose(matrix.costs[far], expected[far], rtol=tolerance)
    assert matrix.noises == 21
    assert matrix.times == grid.times


def test_the_trajectory_is_the_euler_solvers():
    grid, flow, noise = UNEVEN, images().flow(), images().noise(1)
    states = list(solvers.trajectory(flow, noise, grid))
    jump = states[7] - states[2] - (grid.times[7] - grid.times[2]) * flow(states[2], grid.times[2])
    matrix = jump_costs(flow, grid, [(noise, {})])
    assert matrix.costs[2, 7] == pytest.approx(jump.square().sum().item(), rel=1e-10)


def test_one_fine_step_costs_nothing_and_no_step_goes_back():
    matrix = jump_costs(images().flow(), UNEVEN, batches_of(images().noise(5).float(), 5))
    knots = len(UNEVEN.times)
    assert (matrix.costs[np.arange(knots - 1), np.arange(1, knots)] == 0).all()
    assert np.isinf(matrix.costs.numpy()[np.tril_indices(knots)]).all()
    assert (matrix.costs >= 0).all()


def test_costs_do_not_depend_on_the_batch():
    noise = images().noise(30).float()
    by_size = [jump_costs(images().flow(), EVEN, batches_of(noise, n)).costs.numpy() for n in (30, 30, 7, 1)]
    assert by_size[0].tobytes() == by_size[1].tobytes()
    far = two_steps_or_more(len(EVEN.times))
    for costs in by_size[2:]:
        np.testing.assert_allclose(costs[far], by_size[0][far], rtol=1e-6)


def test_a_straight_flow_costs_nothing():
    flow = FieldFlow(lambda x, t: torch.ones_like(x))
    matrix = jump_costs(flow, EVEN, [(torch.randn(4, 3), {})])
    assert (matrix.costs[np.triu_indices(41, 1)] == 0).all()


def test_rounding_never_makes_a_cost_negative():
    gram = np.array([[1.0, -2.0], [-2.0, 4 - 1e-9]])  # increments that cancel, all but for rounding
    assert costs_of((0, 1 / 3, 2 / 3, 1), gram)[0, 3] == 0


def test_total_adds_up_the_jumps():
    matrix = jump_costs(images().flow(), UNEVEN, [(images().noise(3), {})])
    assert matrix.total((0, 4, 9)) == matrix.costs[0, 4] + matrix.costs[4, 9]


def test_conditions_reach_the_flow():
    flow = FieldFlow(lambda x, t, label: label[:, None] * t[:, None] * torch.ones_like(x))
    batches = [(torch.zeros(2, 3), {"label": torch.tensor([1.0, 3.0])})]
    bend = jump_costs(flow, grids.uniform(2), batches).costs[0, 2]
    assert bend == pytest.approx((0.5 * 0.5) ** 2 * 3 * (1 + 9) / 2)  # half a step at half the slope


def test_no_gradients_are_kept():
    slope = torch.nn.Parameter(torch.tensor(2.0))
    seen = []

    def velocity(x, t):
        seen.append((slope * x).requires_grad)
        return slope * x

    jump_costs(FieldFlow(velocity), EVEN, [(torch.randn(2, 2), {})])
    assert not any(seen)


@pytest.mark.parametrize("grid", [Grid((0.05, 0.5, 1.0)), Grid((0.1, 0.95, 1.0))])
def test_velocities_are_not_asked_for_where_there_are_none(grid):
    flow = FieldFlow(lambda x, t: x, t_start=0.1, t_end=0.9)
    with pytest.raises(UserError, match=r"this model gives them from 0\.1 to 0\.9"):
        jump_costs(flow, grid, [(torch.randn(2, 2), {})])


def test_no_noise():
    with pytest.raises(UserError, match="at least one noise"):
        jump_costs(images().flow(), EVEN, [])


def test_velocities_that_are_not_finite():
    flow = FieldFlow(lambda x, t: x / (t[:, None] - 0.5))
    with pytest.raises(UserError, match="not finite"):
        jump_costs(flow, EVEN, [(torch.randn(2, 2), {})])
