"""Steps of a flow map: each is asked for as it is taken, and compared with what the map is of."""

from dataclasses import replace
from itertools import combinations, pairwise

import oracles
import pytest
import torch
from asking import about
from flow_maps import as_flow_map
from torch import nn

import fewstep
from fewstep import registry
from fewstep.errors import UserError
from fewstep.flow import FieldFlow, as_flow
from fewstep.grids import Grid, uniform
from fewstep.model import Model, ModelConfig
from fewstep.paths import like
from fewstep.searches.bellman import Bellman
from fewstep.searches.bellman_plain import BellmanPlain
from fewstep.searches.best import Best
from fewstep.searches.coordinate_descent import CoordinateDescent
from fewstep.searches.optimal_steps import OptimalSteps
from fewstep.searching.jumps import jumps
from fewstep.solvers import integrate

ORACLE = oracles.gaussian([0.5, -1.0], [0.4, 1.5])
QUICK = {
    "best": Best(candidates=("uniform", "quantile", "bellman", "optimal_steps"), noises=512),
    "coordinate_descent": CoordinateDescent(noises=32),
}
FINE = uniform(12)


class StrayingMap(nn.Module):
    """A map of points that stay where they are, off by w(t) span^2: by more early than late."""

    velocity_until = "any"
    t_start, t_end, nfe_per_velocity = 0.0, 1.0, 1

    def forward(self, x, t, *, until=None):
        t, until = (torch.as_tensor(time).expand(len(x)) for time in (t, t if until is None else until))
        return like(weight(t) * (until - t), x).expand_as(x)


def weight(t):
    return 1 + 20 * torch.exp(-8 * t)


def strays(times):
    """How far a grid ends from where points were."""
    ways = pairwise(torch.tensor(times, dtype=torch.float64))
    return sum(float(weight(t) * (until - t) ** 2) for t, until in ways)


def best_of(fine, steps):
    inner = combinations(fine.times[1:-1], steps - 1)
    return min(((fine.times[0], *times, 1.0) for times in inner), key=strays)


def noise(n=64, dimensions=2):
    return torch.randn(n, dimensions, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("name", registry.available("fewstep.searches"))
def test_every_search_finds_steps_of_an_exact_map_and_takes_no_more_than_it_says(name):
    few = {"fine_steps": 12} if name in ("optimal_steps", "quantile") else {}
    search = QUICK.get(name) or registry.find("fewstep.searches", name)(**few)
    model, asked = as_flow_map(ORACLE), []

    class Counting(FieldFlow):
        velocity_until = "any"

        def __call__(self, x, t, **given):
            asked.append(len(x))
            return as_flow(model)(x, t, **given)

    problem = about(Counting(None), budgets=(1, 2, 4), batch=256, truth_steps=16)
    result = search.search(problem)
    assert sum(asked) <= search.velocities(problem)
    start = noise()
    with torch.no_grad():
        for steps, grid in result.grids.items():
            assert (grid.steps, grid.solver) == (steps, "euler")
            torch.testing.assert_close(
                integrate(as_flow(model), start, grid).x, ORACLE.mean + ORACLE.std * start
            )


@pytest.mark.parametrize("cost", ["squared", "plain"])
def test_no_jump_of_an_exact_map_costs_anything_along_its_teacher_or_itself(cost):
    model, teacher = as_flow_map(ORACLE), ORACLE.flow()
    fine = Grid(FINE.times, solver="rk4")
    for problem in (about(as_flow(model)), about(as_flow(model), teacher=teacher)):
        found = jumps(problem, fine, cost=cost, noises=16).costs
        forwards = torch.tensor(found)[torch.ones(13, 13).triu(1).bool()]
        assert forwards.abs().max() < 1e-3
    bends = jumps(about(teacher), FINE, cost=cost, noises=16).costs
    assert bends[0, -1] > 0.1  # of its teacher the same jump costs much


@pytest.mark.parametrize("steps", [2, 3, 4])
def test_grids_are_the_best_of_all_where_errors_by_span_are_known(steps):
    wanted = best_of(FINE, steps)
    assert strays(wanted) < 0.95 * strays(uniform(steps).times)
    for search in (
        BellmanPlain(tried_steps=12, noises=8),
        OptimalSteps(fine_steps=12, noises=8),
    ):
        found = search.search(about(StrayingMap(), budgets=(steps,)))
        assert found.grids[steps].times == pytest.approx(wanted)
        off = found.objective[steps] if isinstance(search, OptimalSteps) else found.objective[steps] ** 2 / 2
        assert off == pytest.approx(strays(wanted) ** 2, rel=1e-4)
    moved = CoordinateDescent(start=("uniform", "bellman_plain"), noises=8)
    near = moved.search(about(StrayingMap(), budgets=(steps,))).grids[steps].times
    assert strays(near) <= strays(best_of(uniform(24), steps)) + 1e-9


class Biased(nn.Module):
    """A map whose steps, and velocities at one time, all point away by 0.3."""

    def forward(self, x, t, until=None):
        return torch.full_like(x, 0.3)


def test_a_map_is_held_against_its_teacher_or_without_one_against_its_own_velocities():
    config = ModelConfig(architecture={"name": "biased", "second_time": True}, shape=(2,))
    still = oracles.as_model(oracles.gaussian([0.0, 0.0], [1.0, 1.0]))  # which leads from noise to itself
    asked = {"budgets": [1, 3], "method": Bellman(noises=16), "report": 16}
    alone = fewstep.search(Model(config, Biased()), noise(), **asked)
    taught = fewstep.search(Model(config, Biased()), noise(), teacher=still, **asked)
    for steps in (1, 3):
        assert alone.scores[steps]["Bellman"].rmse == pytest.approx(0, abs=1e-6)
        assert taught.scores[steps]["uniform"].rmse == pytest.approx(0.3, abs=1e-3)
    assert taught[3].guidance == 1.0


def test_guidance_that_is_asked_of_a_teacher_is_in_its_map():
    asked = []

    class Guided(nn.Module):
        def forward(self, x, t, label=None):
            asked.append(label)
            return x * (1 + label[:, None])

    teacher = Model(ModelConfig(architecture={"name": "guided"}, shape=(2,), classes=2), Guided())
    config = ModelConfig(architecture={"name": "biased", "second_time": True}, shape=(2,), classes=2)

    class Labelled(Biased):
        def forward(self, x, t, label=None, until=None):
            return super().forward(x, t, until)

    given = {"budgets": [2], "method": "uniform", "conditions": {"label": torch.zeros(64, dtype=torch.int64)}}
    found = fewstep.search(
        Model(config, Labelled()), noise(), guidance=3.0, teacher=teacher, report=8, **given
    )
    assert found[2].guidance == 1.0
    assert any((label == 2).all() for label in asked)  # the null class, as guidance asks for


def test_a_map_of_a_range_of_guidance_and_its_teacher_are_asked_for_the_same_scale():
    law = {"shape": (2,), "classes": 2}
    teacher = Model(ModelConfig(architecture={"name": "leads"}, **law), Leads())
    one = ModelConfig(architecture={"name": "leads", "second_time": True}, **law)
    config = replace(one, guidance_input=True, guidance_range=(1, 4))
    given = {"budgets": [2], "method": "uniform", "conditions": {"label": torch.zeros(64, dtype=torch.int64)}}
    found = fewstep.search(Model(config, Leads()), noise(), guidance=3.0, teacher=teacher, report=8, **given)
    assert found[2].guidance == 3.0
    assert found.scores[2]["uniform"].rmse == pytest.approx(0, abs=1e-5)
    with pytest.raises(UserError, match="trained with guidance from 1 to 4; ask for one of these, not 5"):
        fewstep.search(Model(config, Leads()), noise(), guidance=5.0, teacher=teacher, **given)


class Leads(nn.Module):
    """A velocity of 1, times the scale of guidance, in class 0, and of 0 without a class."""

    def forward(self, x, t, label=None, until=None, guidance=None):
        velocity = torch.where(label[:, None] == 2, 0 * x, 1 + 0 * x)
        return velocity if guidance is None else velocity * guidance[:, None]


def test_a_map_is_searched_by_a_distance_of_ones_own():
    model = as_flow_map(ORACLE)
    found = fewstep.search(
        model,
        noise(),
        budgets=[2],
        method=Bellman(noises=16),
        distance=lambda a, b: (a - b).abs().amax(dim=1),
    )
    assert found.result.objective[2] < 1e-6


def test_what_cannot_be_asked_of_a_map_is_refused():
    with pytest.raises(
        UserError, match="steps of a flow map are Euler steps, and grids of heun are searched"
    ):
        fewstep.search(as_flow_map(ORACLE), noise(), budgets=[2], method="uniform", solver="heun")
    other = as_flow_map(ORACLE)
    with pytest.raises(UserError, match="what a student is compared with needs a velocity at each time"):
        fewstep.search(other, noise(), budgets=[2], method="uniform", teacher=other)
    to_data = as_flow_map(ORACLE, trained_times="until_1", grid=uniform(1))
    to_data.config = replace(to_data.config, architecture={"name": "oracle"})
    with pytest.raises(UserError, match="trained only at the timesteps of its own grid"):
        fewstep.search(to_data, noise(), budgets=[2], method="uniform")
    equal = as_flow_map(ORACLE, equal_steps=4)
    for asked in (equal, as_flow(equal)):
        with pytest.raises(UserError, match="takes none that are searched; sample it with 1, 2 or 4 equal"):
            fewstep.search(asked, noise(), budgets=[2], method="uniform")


def test_a_teacher_of_a_model_that_has_none_is_refused():
    velocity, still = oracles.gaussian([0.0], [1.0]), oracles.as_model(oracles.gaussian([0.0], [1.0]))
    for model in (still, lambda x, t: velocity.velocity(x, t)):
        with pytest.raises(UserError, match=r"teacher is for the search of a flow map or .* leave it out"):
            fewstep.search(model, torch.randn(8, 1), budgets=[2], method="uniform", teacher=still)
