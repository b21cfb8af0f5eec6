"""What every registered search promises, and what Bellman finds on known flows."""

import subprocess
import sys

import oracles
import pytest
import torch

from fewstep import randomness, registry
from fewstep.errors import UserError
from fewstep.flow import FieldFlow
from fewstep.grids import uniform
from fewstep.searches._costs import jump_costs
from fewstep.searches.bellman import Bellman

BUDGETS = (1, 2, 3, 8)


def run(search, flow=None, *, seed=0, shape=(2,), classes=0, budgets=BUDGETS, batch=16, **more):
    flow = flow or oracles.two_gaussians().flow()
    return search.search(flow, seed=seed, shape=shape, classes=classes, budgets=budgets, batch=batch, **more)


class Listener:
    def __init__(self):
        self.total, self.done = 0, 0

    def start(self, label, total, *, done=0, unit="step"):
        self.total = total

    def advance(self, units=1, **values):
        self.done += units


@pytest.fixture(params=registry.available("fewstep.searches"))
def search(request):
    return registry.find("fewstep.searches", request.param)()


def test_the_searches_are_the_public_files():
    assert registry.available("fewstep.searches") == ["bellman"]


def test_every_budget_gets_a_grid_from_where_the_flow_starts(search):
    flow = FieldFlow(oracles.two_gaussians().velocity, t_start=0.05)
    grids = run(search, flow).grids
    assert tuple(grids) == BUDGETS
    assert all(grid.steps == budget and grid.times[0] == 0.05 for budget, grid in grids.items())


def test_result_follows_from_the_seed_and_hardly_from_the_batch(search):
    first, again, in_threes = run(search), run(search), run(search, batch=3)
    assert first.grids == again.grids == in_threes.grids
    assert first.objective == again.objective
    assert in_threes.objective == pytest.approx(first.objective, rel=1e-6)


@pytest.mark.parametrize("name", registry.available("fewstep.searches"))
def test_settings_need_no_torch(name):
    code = f"import sys, fewstep.searches.{name}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_bellman_beats_equal_steps_at_its_own_objective():
    result = run(Bellman(), budgets=(1, 2, 4, 8, 100))
    for budget, grid in result.grids.items():
        knots = [result.costs.times.index(t) for t in grid.times]
        assert result.objective[budget] == pytest.approx(result.costs.total(knots), rel=1e-12)
        assert result.objective[budget] <= result.uniform_objective[budget]
    assert result.objective[8] < 0.95 * result.uniform_objective[8]
    assert result.objective[100] == result.uniform_objective[100] == 0


def test_uniform_objective_is_that_of_the_nearest_fine_knots():
    result = run(Bellman(fine_steps=10), budgets=(2, 3))
    assert result.uniform_objective[2] == result.costs.total((0, 5, 10))
    assert result.uniform_objective[3] == result.costs.total((0, 3, 7, 10))


def test_bellman_draws_from_the_search_stream():
    noise = randomness.noises("search", randomness.keys_of(7, 0, 20), (2,))
    result = run(Bellman(fine_steps=10, noises=20), seed=7, batch=20)
    expected = jump_costs(oracles.two_gaussians().flow(), uniform(10), [(noise, {})])
    assert torch.equal(result.costs.costs, expected.costs)
    assert result.costs.noises == 20
    assert run(Bellman(fine_steps=10, noises=20), seed=8).objective != result.objective


def test_labels_go_round():
    seen = []

    def velocity(x, t, label):
        seen.append(label)
        return x

    run(Bellman(fine_steps=1, noises=7), FieldFlow(velocity), classes=3, budgets=[1], batch=4)
    assert torch.cat(seen).tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert seen[0].dtype == torch.int64


def test_progress_is_told_of_every_noise():
    listener = Listener()
    run(Bellman(fine_steps=8, noises=20), progress=listener)
    assert listener.total == listener.done == 20


def test_a_budget_too_large_is_refused_before_the_network_is_called():
    def velocity(x, t):
        raise AssertionError("called")

    with pytest.raises(UserError, match="budget 8 does not fit a fine grid of 5 steps"):
        run(Bellman(fine_steps=5), FieldFlow(velocity))


def test_no_noises_are_refused():
    with pytest.raises(UserError, match="at least one noise"):
        run(Bellman(noises=0))
