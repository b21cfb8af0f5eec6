"""A student with jittered timesteps is searched near them, for the ends of its teacher."""

from dataclasses import replace

import oracles
import pytest
import torch
from torch import nn

import fewstep
from fewstep.errors import UserError
from fewstep.flow import as_flow
from fewstep.grids import Grid, reach, uniform
from fewstep.model import Model, ModelConfig
from fewstep.searches.coordinate_descent import CoordinateDescent
from fewstep.solvers import integrate

OWN = uniform(3)
ORACLE = oracles.two_gaussians()


class Field(nn.Module):
    """The exact velocity, which complains when it is asked far from the timesteps."""

    def __init__(self, jitter):
        super().__init__()
        self.jitter = jitter

    def forward(self, x, t):
        for time in t.unique().tolist():
            ranges = [reach(OWN.times, timestep, self.jitter) for timestep in range(3)]
            assert any(low - 1e-6 <= time <= high + 1e-6 for low, high in ranges), time
        return ORACLE.velocity(x, t)


def student(jitter=0.3):
    config = ModelConfig(
        architecture={"name": "field"}, shape=(2,), trained_times="grid", grid=OWN, jitter=jitter
    )
    return Model(config, Field(jitter))


def search(model=None, **asked):
    noise = torch.randn(400, 2, generator=torch.Generator().manual_seed(0))
    defaults = {"budgets": [3], "method": CoordinateDescent(noises=64), "teacher": oracles.as_model(ORACLE)}
    return fewstep.search(model or student(), noise, **(defaults | asked))


def test_timesteps_stay_where_they_were_jittered_and_the_teacher_says_where_to_end():
    found = search(report=64)
    for timestep, time in enumerate(found[3].times):
        low, high = reach(OWN.times, timestep, 0.3)
        assert low <= time <= high
    assert found[3].times != OWN.times
    assert found.scores[3].keys() == {"own", "CoordinateDescent"}
    assert found.scores[3]["CoordinateDescent"].rmse < found.scores[3]["own"].rmse
    noise = torch.randn(200, 2, generator=torch.Generator().manual_seed(5))
    truth = integrate(as_flow(oracles.as_model(ORACLE)), noise, uniform(200)).x
    errors = [
        (integrate(ORACLE.flow(), noise, grid).x - truth).square().mean()
        for grid in (Grid(found[3].times), OWN)
    ]
    assert errors[0] < errors[1]


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (
            {"method": "bellman"},
            "near its own timesteps alone; use a search that keeps to them: coordinate_descent",
        ),
        ({"teacher": None}, "compared with its teacher's; give the teacher too"),
        ({"budgets": [4]}, r"a student of 3 euler steps is searched for these alone, not for \[4\] euler"),
        ({"solver": "heun"}, r"not for \[3\] heun steps"),
    ],
)
def test_searches_of_a_student_that_cannot_be(asked, told):
    with pytest.raises(UserError, match=told):
        search(**asked)


def test_a_student_that_started_from_a_flow_map_is_told_when_its_steps_end():
    told = []

    class Spans(Field):
        def forward(self, x, t, until=None):
            told.append(until)
            return super().forward(x, t)

    own = student()
    config = replace(own.config, architecture={"name": "field", "second_time": True})
    search(Model(config, Spans(0.3)))
    probed = 5  # times that the search asks, before it steps, whether the model is deterministic
    assert not any(until is None for until in told[probed:])


def test_a_student_trained_on_its_own_timesteps_alone_is_refused():
    config = ModelConfig(architecture={"name": "field"}, shape=(2,), trained_times="grid", grid=OWN)
    with pytest.raises(UserError, match="trained only at the timesteps of its own grid; search its teacher"):
        search(Model(config, Field(0.0)))
