"""Methods that compare samples by features as well as by numbers."""

from dataclasses import replace

import pytest
import torch
from oracles import as_model
from recorded import run, student_of
from test_fixed_points import CONVENTIONS, GRID, ORACLE, REFLOWED, pairs
from torch import nn

from fewstep import grids, paths, randomness
from fewstep.methods import _times
from fewstep.methods._features import feature_distance
from fewstep.methods.endpoint import Endpoint
from fewstep.methods.flow_guided import FlowGuided
from fewstep.methods.reflow import Reflow
from fewstep.settings import TrainSettings
from fewstep.training import distances


def test_features_count_beside_the_distance_and_vanish_with_it():
    def first(x):
        """Features that see the first number alone, twice as large."""
        return 2 * x[:, :1]

    noise, keys = ORACLE.noise(20), randomness.keys_of(0, 0, 20)
    model, batch = as_model(REFLOWED), {"noise": noise, "data": ORACLE.mean + ORACLE.std * noise}
    model.config = replace(model.config, grid=GRID, trained_times="grid")
    nets, method = {"student": model, "features": first}, Endpoint(feature_weight=3.0)
    assert method.needs.features
    assert not Endpoint().needs.features
    assert method.loss(nets, batch, "student", 0.0, keys).max() < 1e-12
    model.config = replace(model.config, grid=grids.uniform(1))
    off = torch.tensor([[0.1, 0.0], [0.0, 0.1]]).repeat(10, 1)
    found = method.loss(nets, batch | {"data": batch["data"] + off}, "student", 0.0, keys)
    torch.testing.assert_close(found[:2], torch.tensor([0.005 + 3 * 0.04, 0.005], dtype=torch.float64))


def test_flow_guided_compares_features_of_pairs_and_of_fresh_noise():
    def first(x):
        return 2 * x[:, :1]

    noise, keys = ORACLE.noise(20), randomness.keys_of(0, 0, 20)
    student = as_model(REFLOWED)
    student.config = replace(student.config, grid=grids.uniform(1), trained_times="grid")
    batch = {"noise": noise, "data": ORACLE.mean + ORACLE.std * noise}
    off = {**batch, "data": batch["data"] + torch.tensor([0.1, 0.0])}
    assert FlowGuided(feature_weight=3.0).needs.features
    assert not FlowGuided().needs.features
    exact = {"student": student, "teacher": as_model(REFLOWED), "features": first}
    other = exact | {"teacher": as_model(ORACLE)}  # whose second step ends elsewhere
    method, pairs_alone = FlowGuided(feature_weight=3.0), FlowGuided(feature_weight=3.0, weight=0.0)
    assert method.loss(exact, batch, "student", 0.0, keys).max() < 1e-12
    found = method.loss(exact, off, "student", 0.0, keys)
    torch.testing.assert_close(found, torch.full_like(found, 0.005 + 3 * 0.04))
    of_fresh = [
        each.loss(other, off, "student", 0.0, keys)
        - FlowGuided(weight=each.weight).loss(other, off, "student", 0.0, keys)
        for each in (pairs_alone, method)
    ]
    torch.testing.assert_close(of_fresh[0], torch.full_like(found, 3 * 0.04))
    assert (of_fresh[1] > of_fresh[0]).all()


@pytest.mark.parametrize("growth", ["none", "near_data"])
@pytest.mark.parametrize(("path", "prediction"), CONVENTIONS)
def test_reflow_compares_the_data_of_a_prediction_by_features_as_well(path, prediction, growth):
    """Lee et al. 2024, section 4.2: t H + LPIPS, or LPIPS / (1 - t), at canonical times."""
    batch, keys, seen = pairs(50), randomness.keys_of(0, 0, 50), []
    method = Reflow(distance="huber", feature_weight=3.0, feature_growth=growth)
    assert method.needs.features
    assert not Reflow().needs.features

    def first(x):
        seen.append(x)
        return 2 * x[:, :1]

    exact = {"student": as_model(REFLOWED, path=path, prediction=prediction), "features": first}
    assert method.loss(exact, batch, "student", 0.0, keys).max() < 1e-9
    model = as_model(ORACLE, path=path, prediction=prediction)
    errors = Reflow().errors(model, batch, keys)
    t = paths.get(path).canonical_time(_times.draw_times("u_shaped", model.config, keys).double())
    torch.testing.assert_close(errors.noisiness, 1 - t)
    found = method.loss({"student": model, "features": first}, batch, "student", 0.0, keys)
    off = (2 * (seen[-2] - seen[-1])[:, 0]).square()
    torch.testing.assert_close(seen[-2], batch["data"] + errors.data)
    seen_off = off / (1 - t).clamp(min=1e-5) if growth == "near_data" else off
    torch.testing.assert_close(found, t * distances.huber(errors.prediction) + 3 * seen_off)


def test_the_distance_of_features_does_not_depend_on_half_precision():
    torch.manual_seed(0)
    net, data = nn.Linear(8, 4), torch.randn(20, 8)
    made = data + 1e-3 * torch.randn(20, 8)
    whole = feature_distance(net, made, data)
    with torch.autocast("cpu", torch.bfloat16):
        assert net(data).dtype == torch.bfloat16
        assert torch.equal(feature_distance(net, made, data), whole)
        half = feature_distance(net, made.bfloat16(), data)  # as a network of bfloat16 makes it
    assert half.dtype == torch.float32


@pytest.mark.parametrize("method", [Endpoint(feature_weight=1.0), Reflow(feature_weight=1.0)])
def test_the_net_of_a_loss_keeps_its_weights_where_other_frozen_ones_are_halved(tmp_path, method):
    net, seen = nn.Linear(2, 4), set()
    net.register_forward_pre_hook(lambda net, given: seen.add((net.weight.dtype, given[0].dtype)))
    settings = TrainSettings(steps=2, batch=16, precision="bfloat16", frozen="bfloat16")
    run(tmp_path, method=method, model=student_of(method), load=lambda name: net, settings=settings)
    assert seen == {(torch.float32, torch.float32)}
