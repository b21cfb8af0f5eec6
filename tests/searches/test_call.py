"""fewstep.search: grids for any velocity, in one line."""

import re
import subprocess
import sys

import oracles
import pytest
import torch
from torch import nn

import fewstep
from fewstep.errors import UserError
from fewstep.flow import FieldFlow, as_flow
from fewstep.grids import Grid, uniform
from fewstep.model import Model, ModelConfig
from fewstep.pairs.backwards import integrate_back
from fewstep.reference import reference
from fewstep.searches.bellman import Bellman
from fewstep.solvers import integrate

VELOCITY = oracles.two_gaussians().velocity


def noise(n, *shape):
    return torch.randn(n, *(shape or (2,)), generator=torch.Generator().manual_seed(0))


class Labelled(nn.Module):
    """A network of three classes; the fourth label is the null condition."""

    def forward(self, x, t, label=None):
        return VELOCITY(x, t) + (label[:, None] - 3.0) * t[:, None] ** 3


def conditional(**config):
    return Model(ModelConfig(architecture={"name": "mlp"}, shape=(2,), classes=3, **config), Labelled())


def test_one_line_finds_grids_for_any_velocity():
    grids = fewstep.search(VELOCITY, noise(128), budgets=[4, 8], method="bellman")
    assert sorted(grids) == [4, 8]
    assert all(isinstance(grid, Grid) and grid.steps == steps for steps, grid in grids.items())
    assert len(grids) == 2
    assert grids.scores == {}


def test_importing_fewstep_does_not_import_torch_until_it_is_asked():
    code = "import sys, fewstep; early = 'torch' in sys.modules; fewstep.search; sys.exit(early)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    with pytest.raises(AttributeError, match="no attribute 'serch'"):
        fewstep.serch  # noqa: B018


def test_a_report_scores_every_candidate_on_noise_of_its_own():
    small = Bellman(noises=32)
    found = fewstep.search(VELOCITY, noise(96), budgets=[2], method=small, report=64)
    assert set(found.scores[2]) == {"uniform", "Bellman"}
    other = noise(96)
    other[32:] = torch.randn(64, 2, generator=torch.Generator().manual_seed(9))
    again = fewstep.search(VELOCITY, other, budgets=[2], method=small, report=64)
    assert again[2] == found[2]
    assert again.scores != found.scores


def test_best_is_the_default_and_is_scored_beside_its_candidates():
    found = fewstep.search(
        VELOCITY, noise(256 + 2 * 1024 + 64), budgets=[2], report=64, batch=1024, truth_steps=8
    )
    assert {"best", "uniform", "bellman", "tan"} <= set(found.scores[2])
    assert found.result.decisions[2]["from"] in found.result.candidates


@pytest.mark.parametrize("solver", ["euler", "ab2", "heun"])
def test_grids_are_for_the_solver_asked_for(solver):
    found = fewstep.search(VELOCITY, noise(128), budgets=[3], method="bellman", solver=solver)
    assert found[3].solver == solver


def test_guidance_is_searched_with_and_written_on_the_grid():
    labels = {"label": torch.arange(128) % 3}
    grids = [
        fewstep.search(
            conditional(), noise(128), budgets=[4], method="bellman", guidance=w, conditions=labels
        )[4]
        for w in (1.0, 4.0)
    ]
    assert [grid.guidance for grid in grids] == [1.0, 4.0]
    assert grids[0].times != grids[1].times


def test_a_distance_of_the_users():
    seen = []

    def distance(reached, wanted):
        seen.append(reached.shape)
        return (reached - wanted).abs().amax(dim=1)

    found = fewstep.search(VELOCITY, noise(128), budgets=[3], method="bellman", distance=distance)
    assert found[3].steps == 3
    assert seen[0] == (128, 2)


def test_flows_are_taken_with_their_own_start():
    flow = FieldFlow(VELOCITY, t_start=0.1)
    assert fewstep.search(flow, noise(128), budgets=[2], method="quantile")[2].times[0] == 0.1


def test_the_end_of_a_searched_grid_is_nearer():
    start, few = noise(512), noise(128)
    truth = integrate(FieldFlow(VELOCITY), start, uniform(200, solver="heun")).x
    found = fewstep.search(VELOCITY, few, budgets=[4], method="tan")[4]
    errors = [
        (integrate(FieldFlow(VELOCITY), start, grid).x - truth).square().mean()
        for grid in (found, uniform(4))
    ]
    assert errors[0] < errors[1]


class Dropping(nn.Module):
    def forward(self, x, t):
        return nn.functional.dropout(x + 1, training=True)


@pytest.mark.parametrize(
    ("model", "told"),
    [
        (
            lambda x, t: x[:, :1],
            "at t = 0 the velocity has shape (32, 1), the state (32, 2)",
        ),
        (lambda x, t: x.numpy(), "at t = 0 the velocity has shape ndarray, the state (32, 2)"),
        (lambda x, t: x / (t[:, None] - 0.5), "at t = 0.5 the velocity is not finite"),
        (Dropping(), "the model is not deterministic: asked twice at t = 0 it gave velocities up to"),
        (
            conditional(trained_times="grid", grid=uniform(2)),
            "trained only at the timesteps of its own grid; search its teacher",
        ),
        (conditional(deterministic=False), "not deterministic: the same noise gives other samples"),
    ],
)
def test_models_that_cannot_be_searched(model, told):
    with pytest.raises(UserError, match=re.escape(told)):
        fewstep.search(model, noise(128), budgets=[2], method="bellman")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"trained_times": "grid", "grid": uniform(2)}, "was trained for the steps of its own grid alone"),
        ({"trained_times": "until_1", "grid": uniform(1)}, "gives average velocities over steps"),
    ],
)
def test_the_flow_of_a_student_is_refused_where_all_times_are_asked_for(change, told):
    flow, data = as_flow(conditional(**change)), noise(128)
    label = torch.zeros(len(data), dtype=torch.int64)
    for ask in (
        lambda: fewstep.search(flow, data, budgets=[2], method="uniform", conditions={"label": label}),
        lambda: reference(flow, data, label=label),
        lambda: integrate_back(flow, data, uniform(2), label=label),
    ):
        with pytest.raises(UserError, match=f"this model {told}.*needs a velocity at each time"):
            ask()


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, "the model has 3 classes; give each noise's: conditions={'label': ...}"),
        ({"noise": noise(128, 5)}, "noise of shape (5,) is not of the model's, (2,)"),
    ],
)
def test_noise_and_labels_that_a_model_cannot_take(given, told):
    with pytest.raises(UserError, match=re.escape(told)):
        fewstep.search(conditional(), given.get("noise", noise(128)), budgets=[2], method="bellman")


def test_no_noise_is_refused_even_where_none_is_needed():
    with pytest.raises(UserError, match="no noise to search with"):
        fewstep.search(VELOCITY, torch.empty(0, 2), budgets=[2], method="uniform")


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"method": "belman"}, "unknown search 'belman'; did you mean 'bellman'?"),
        ({"solver": "hein"}, "unknown solver 'hein'"),
        ({"solver": "hein", "method": "uniform"}, "unknown solver 'hein'"),
        ({"batch": 0}, "batch must be 1 or more, got 0"),
        ({"report": 1}, "report scores grids on two or more noises, or on none with 0; got 1"),
        ({"report": -200}, "or on none with 0; got -200"),
        ({"conditions": {"label": torch.zeros(3)}}, "there are 3 of condition 'label' for 130 noises"),
        ({"distance": lambda a, b: (a - b).abs().mean()}, "a distance must give 128 finite numbers for 128"),
        ({"distance": lambda a, b: (a - b)[:, 0] / 0}, "a distance must give 128 finite numbers for 128"),
        ({"budgets": [200]}, "budget 200 does not fit a fine grid of 100 steps"),
        ({"budgets": [0]}, "budget 0 is no number of steps"),
        ({"budgets": [2, 2]}, "name a number twice"),
        ({"guidance": 2.0}, "guidance 2.0 is asked of a velocity that has none"),
        ({"report": 50}, "this search needs 178 noises (128 to search, 50 to report), got 130"),
        ({"method": "best"}, "this search needs 2304 noises (256 to search, 1024 to polish, 1024 to select)"),
    ],
)
def test_calls_that_cannot_be(asked, told):
    with pytest.raises(UserError, match=re.escape(told)):
        fewstep.search(VELOCITY, noise(130), **({"budgets": [2], "method": "bellman"} | asked))
