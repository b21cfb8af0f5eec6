"""Euler steps that are found together: the same states, in rounds that depend on the flow alone."""

import math

import oracles
import pytest
import torch

from fewstep import grids, parallel_steps, solvers
from fewstep.errors import UserError
from fewstep.finite import NotFiniteError
from fewstep.flow import FieldFlow, as_flow
from fewstep.model import ModelConfig, build
from fewstep.paths import like

GRID = grids.uniform(24)
TAN = grids.spaced("tan", 24, start=0.0, end=1.0, solver="euler")


def both(at_once, tolerance, grid=GRID, oracle=None):
    oracle = oracle or oracles.two_gaussians()
    noise = oracle.noise(16)
    return (
        parallel_steps.integrate(oracle.flow(), noise, grid, at_once=at_once, tolerance=tolerance),
        solvers.integrate(oracle.flow(), noise, grid),
    )


@pytest.mark.parametrize("at_once", [1, 2, 7, 24, 100])
@pytest.mark.parametrize("grid", [GRID, TAN], ids=["uniform", "tan"])
def test_without_a_tolerance_the_states_are_those_of_one_step_after_the_other(at_once, grid):
    found, euler = both(at_once, 0.0, grid)
    torch.testing.assert_close(found.x, euler.x, atol=1e-12, rtol=0)
    assert found.rounds <= euler.nfe == 24
    assert found.nfe >= 24
    if at_once == 1:
        assert (found.rounds, found.nfe) == (24, 24)


def test_after_k_rounds_the_first_k_states_are_right_whatever_was_guessed():
    oracle = oracles.two_gaussians()
    noise, times = oracle.noise(8), torch.tensor(GRID.times)
    euler = torch.stack(list(solvers.trajectory(oracle.flow(), noise, GRID)))
    states = torch.cat([noise[None], torch.randn(24, *noise.shape, dtype=noise.dtype)])
    for rounds in range(1, 25):
        slopes = parallel_steps._slopes(oracle.flow(), states[:-1], times[:-1].double(), {})
        states = parallel_steps._followed(states[0], slopes, torch.diff(times).to(noise))
        torch.testing.assert_close(states[: rounds + 1], euler[: rounds + 1], atol=1e-6, rtol=0)


def test_a_window_that_depends_on_time_alone_is_right_after_one_round_and_known_so_after_two():
    flow = FieldFlow(lambda x, t: torch.cos(like(t, x)).expand_as(x))
    noise = torch.randn(4, 3, dtype=torch.float64)
    found = parallel_steps.integrate(flow, noise, GRID, at_once=24, tolerance=1e-9)
    torch.testing.assert_close(found.x, solvers.integrate(flow, noise, GRID).x)
    assert found.rounds <= 3


@pytest.mark.parametrize("tolerance", [1e-2, 1e-3, 1e-4])
def test_a_tolerance_saves_rounds_and_is_kept(tolerance):
    found, euler = both(24, tolerance)
    assert float((found.x - euler.x).square().mean(1).sqrt().max()) < 5 * tolerance
    assert found.rounds < 24


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_conditions_and_times_go_with_their_states(dtype):
    model = build(ModelConfig(architecture={"name": "mlp", "width": 8}, shape=(2,), classes=3), seed=0)
    flow, noise = as_flow(model), torch.randn(5, 2).to(dtype)
    label = torch.tensor([0, 1, 2, 0, 1])
    found = parallel_steps.integrate(flow, noise, GRID, at_once=6, tolerance=0.0, label=label)
    expected = solvers.integrate(flow, noise, GRID, label=label).x
    assert found.x.dtype == torch.float32
    torch.testing.assert_close(found.x, expected, atol=1e-5, rtol=0)


def test_guided_calls_count_twice_but_are_one_after_the_other_once():
    flow = FieldFlow(lambda x, t: -x)
    flow.nfe_per_velocity = 2
    found = parallel_steps.integrate(flow, torch.ones(2, 1), grids.uniform(4), at_once=1)
    assert (found.rounds, found.nfe) == (4, 8)


@pytest.mark.parametrize(
    ("options", "grid", "told"),
    [
        ({"at_once": 0}, GRID, "steps at once must be 1 or more"),
        ({"at_once": 4, "tolerance": -1.0}, GRID, "a tolerance 0 or more"),
        ({"at_once": 4}, grids.uniform(4, solver="heun"), "the grid's solver is heun"),
    ],
)
def test_impossible_options_and_grids_are_refused(options, grid, told):
    with pytest.raises(UserError, match=told):
        parallel_steps.integrate(oracles.two_gaussians().flow(), torch.zeros(1, 2), grid, **options)


def test_a_state_that_is_not_finite_is_refused():
    flow = FieldFlow(lambda x, t: x * math.inf)
    with pytest.raises(NotFiniteError, match="in round 1"):
        parallel_steps.integrate(flow, torch.ones(1, 2), GRID, at_once=4)
