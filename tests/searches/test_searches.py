"""What every registered search promises."""

import subprocess
import sys
from dataclasses import replace

import oracles
import pytest
import torch
from asking import about

from fewstep import registry
from fewstep.errors import UserError
from fewstep.flow import FieldFlow
from fewstep.searches.best import Best
from fewstep.searches.coordinate_descent import CoordinateDescent
from fewstep.solvers import integrate

NAMES = registry.available("fewstep.searches")
QUICK = {
    "best": Best(candidates=("uniform", "quantile", "bellman"), noises=512),
    "coordinate_descent": CoordinateDescent(noises=32),
}
OVER_STEPS = ("bellman", "bellman_plain", "gits", "optimal_steps", "quantile")  # of a fine grid
SOLVERS = ["euler", "ab2", "heun", "heun_pc"]
FAST = 256  # a batch that most sets of noise fit in


def quick(name):
    few = {"fine_steps": 24} if name in OVER_STEPS else {}
    return QUICK.get(name) or registry.find("fewstep.searches", name)(**few)


@pytest.fixture(params=NAMES)
def search(request):
    return quick(request.param)


class Counting(FieldFlow):
    """A flow that counts velocities, those of each noise."""

    def __init__(self, oracle):
        super().__init__(oracle.velocity)
        self.asked = 0

    def __call__(self, x, t, **conditions):
        self.asked += len(x)
        return super().__call__(x, t, **conditions)


def test_the_searches_are_the_public_files():
    closed, over_jumps = (
        {"uniform", "edm", "log_snr", "tan"},
        {"quantile", "bellman", "bellman_plain", "gits"},
    )
    assert set(NAMES) == closed | over_jumps | {"optimal_steps", "coordinate_descent", "best"}


@pytest.mark.parametrize("t_end", [0.9, 0.98])
def test_no_velocity_is_asked_for_after_the_last_that_a_flow_gives(search, t_end):
    def velocity(x, t):
        assert (t <= t_end + 1e-6).all()
        return oracles.two_gaussians().velocity(x, t)

    flow = FieldFlow(velocity, t_end=t_end)
    for steps, grid in search.search(about(flow, budgets=(1, 5), batch=FAST, truth_steps=16)).grids.items():
        assert grid.steps == steps
        integrate(flow, torch.randn(3, 2), grid)


@pytest.mark.parametrize("solver", SOLVERS)
def test_every_budget_gets_a_grid_of_the_solver_from_where_the_flow_starts(search, solver):
    flow = FieldFlow(oracles.two_gaussians().velocity, t_start=0.05, t_end=0.995)
    problem = about(flow, budgets=(1, 2, 5), batch=FAST, solver=solver)
    found = search.search(problem).grids
    assert tuple(found) == (1, 2, 5)
    assert all(grid.steps == steps and grid.times[0] == 0.05 for steps, grid in found.items())
    assert {grid.solver for grid in found.values()} == {solver}
    for grid in found.values():
        integrate(flow, torch.randn(3, 2), grid)  # it can be sampled with


def test_result_follows_from_the_seed_and_hardly_from_the_batch(search):
    first, again, in_others = (search.search(about(budgets=(2, 4), batch=n)) for n in (FAST, FAST, 100))
    assert first.grids == again.grids
    assert first.objective == again.objective
    for steps, grid in first.grids.items():
        assert in_others.grids[steps].times == pytest.approx(grid.times, abs=1e-6)
    assert in_others.objective == pytest.approx(first.objective, rel=1e-5)


def test_a_search_takes_no_more_noise_and_velocities_than_it_says(search):
    flow, taken = Counting(oracles.two_gaussians()), {}

    class Watched:
        def batches(self, role, count):
            taken[role] = max(count, taken.get(role, 0))
            return problem.noise.batches(role, count)

    problem = about(flow, budgets=(2, 4), batch=FAST, truth_steps=16)
    search.search(replace(problem, noise=Watched()))
    assert taken == search.needs()
    assert flow.asked <= search.velocities(problem)


@pytest.mark.parametrize("name", NAMES)
def test_settings_need_no_torch(name):
    code = (
        f"import sys; from fewstep import registry; s = registry.find('fewstep.searches', '{name}')();"
        "s.check([2, 4], 'heun'); s.needs(); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(
    ("budgets", "told"),
    [
        ((2, 0), "budget 0 is no number of steps"),
        ((2, 3, 2), r"budgets \[2, 3, 2\] name a number twice"),
        ((), "no budgets"),
    ],
)
def test_budgets_that_cannot_be(search, solver, budgets, told):
    with pytest.raises(UserError, match=told):
        search.check(budgets, solver)


@pytest.mark.parametrize("name", OVER_STEPS)
def test_a_budget_too_large_is_refused_before_the_network_is_called(name):
    def velocity(x, t):
        raise AssertionError("called")

    search = registry.find("fewstep.searches", name)(fine_steps=5)
    with pytest.raises(UserError, match="budget 8 does not fit a fine grid of 5 steps"):
        search.search(about(FieldFlow(velocity), budgets=(2, 8)))


def test_labels_come_by_their_shares(search):
    seen = []

    def velocity(x, t, label):
        seen.append(label)
        return x * 0

    problem = about(FieldFlow(velocity), budgets=(2,), shares=(0.5, 0.0, 0.5), batch=FAST, truth_steps=2)
    search.search(problem)
    assert all(set(label.tolist()) <= {0, 2} and label.dtype == torch.int64 for label in seen)
    if search.needs():
        assert seen[0][:4].bincount().tolist() == [2, 0, 2]
