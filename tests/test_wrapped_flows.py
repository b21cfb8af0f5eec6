"""A flow around another one says of it what that one does, also to who copies it."""

import copy
import pickle

import oracles
import pytest
import torch
from flow_maps import as_flow_map

from fewstep import grids, noises
from fewstep.finite import Finite
from fewstep.flow import FieldFlow, WrappedFlow, as_flow, noise_of, only_grid, velocity_until
from fewstep.model import Model, ModelConfig
from fewstep.searching.checked import Checked
from fewstep.searching.global_routes import InBatches
from fewstep.solvers import CountedFlow, integrate

ORACLE = oracles.gaussian([2.0], [0.5])
WRAPPERS = {
    "counted": lambda flow: CountedFlow(flow, {}),
    "finite": Finite,
    "checked": Checked,
    "batches": lambda flow: InBatches(flow, [2, 3]),
}


@pytest.mark.parametrize("wrapped", WRAPPERS.values(), ids=WRAPPERS)
def test_a_flow_around_another_says_what_that_one_does(wrapped):
    facts = {"grid": grids.uniform(2), "trained_times": "grid", "noise": {"name": "student_t", "degrees": 5}}
    flow = as_flow(Model(ModelConfig(architecture={}, shape=(1,), **facts), torch.nn.Identity()))
    around = wrapped(flow)
    assert noise_of(around) == noises.StudentT(5.0)
    assert only_grid(around) == (grids.uniform(2), 0.0)
    assert (around.t_start, around.t_end, around.nfe_per_velocity) == (flow.t_start, flow.t_end, 1)
    assert velocity_until(around) == "now"
    assert only_grid(wrapped(FieldFlow(ORACLE.velocity))) is None


@pytest.mark.parametrize("wrapped", WRAPPERS.values(), ids=WRAPPERS)
def test_a_flow_around_a_flow_map_is_one(wrapped):
    flow, noise = as_flow(as_flow_map(ORACLE)), ORACLE.noise(5)
    expected = integrate(flow, noise, grids.uniform(2)).x
    assert torch.equal(integrate(wrapped(flow), noise, grids.uniform(2)).x, expected)


def test_a_flow_around_another_can_be_copied_and_pickled():
    around = CountedFlow(as_flow(Model(ModelConfig(architecture={}, shape=(1,)), torch.nn.Identity())), {})
    for made in (copy.copy(around), copy.deepcopy(around), pickle.loads(pickle.dumps(around))):
        assert isinstance(made, WrappedFlow)
        assert (made.t_end, made.nfe) == (around.t_end, 0)
    with pytest.raises(AttributeError, match="no_such"):
        around.no_such  # noqa: B018
