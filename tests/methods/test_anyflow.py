"""Anyflow on exact flow maps: three jumps are the steps, and a Gaussian student ends at its teacher."""

import copy
from dataclasses import replace
from pathlib import Path

import oracles
import pytest
import torch
import yaml
from flow_maps import as_flow_map, gaussian_map
from torch import nn

from fewstep import grids, randomness
from fewstep.errors import UserError
from fewstep.flow import as_flow
from fewstep.methods.anyflow import Anyflow
from fewstep.methods.dmd import Dmd
from fewstep.methods.flow_map import FlowMap
from fewstep.model import Model, ModelConfig
from fewstep.solvers import integrate
from stages.settings import checks
from stages.settings.params import Params

ORACLE = oracles.gaussian([1.0, -2.0], [0.5, 1.5])
KEYS = randomness.keys_of(0, 0, 200)


@pytest.mark.parametrize(
    ("path", "prediction"), [("linear", "velocity"), ("vp", "noise"), ("cosine", "data"), ("ve", "v")]
)
def test_three_jumps_are_the_steps_whatever_their_number(path, prediction):
    model, noise = as_flow_map(ORACLE, path=path, prediction=prediction), ORACLE.noise(200)
    flow = as_flow(model)
    for steps in (1, 2, 5):
        found = Anyflow(steps=(steps,)).own_samples(model, noise, {}, KEYS)
        grid = grids.uniform(steps, start=flow.t_start, end=flow.t_end)
        close = 1e-2 if path == "ve" else 1e-4  # ve ends before data, so jumps to data are to that end
        torch.testing.assert_close(found, integrate(flow, noise, grid).x, rtol=0, atol=close)
        if path == "linear":
            torch.testing.assert_close(found, ORACLE.mean + ORACLE.std * noise, rtol=0, atol=1e-9)


def test_the_middle_jump_is_one_step_of_each_number_equally_often():
    flow = as_flow(as_flow_map(ORACLE))
    times = Anyflow(steps=(1, 4)).jumps(flow, randomness.keys_of(0, 0, 4000))
    assert (times[:, 0] == 0).all()
    assert (times[:, 3] == 1).all()
    assert (times.diff(dim=1) >= 0).all()
    spans, count = torch.unique(times[:, 1:3], dim=0, return_counts=True)
    share = {tuple(span): int(n) / 4000 for span, n in zip(spans.tolist(), count, strict=True)}
    assert share.pop((0.0, 1.0)) == pytest.approx(1 / 2, abs=0.03)
    assert sorted(share) == [(0.0, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1.0)]
    assert list(share.values()) == pytest.approx([1 / 8] * 4, abs=0.02)


class Learned(nn.Module):
    """The flow map of a Gaussian that learns its mean and deviation."""

    def __init__(self, mean, std):
        super().__init__()
        self.mean, self.std = (nn.Parameter(torch.tensor([x], dtype=torch.float64)) for x in (mean, std))

    def forward(self, x, t, until=None):
        until = torch.where(until - t < 1e-6, t + 1e-6, until)
        moved = gaussian_map(oracles.Gaussian(self.mean, self.std), x, t, until)
        return (moved - x) / (until - t)[:, None]


def learned(mean, std):
    architecture = {"name": "learned", "second_time": True}
    return Model(ModelConfig(architecture=architecture, shape=(1,)), Learned(mean, std))


def test_a_gaussian_flow_map_ends_at_its_teacher_and_stays_there():
    student, teacher, method = learned(0.4, 0.8), oracles.gaussian([0.0], [1.0]), Anyflow()
    optimiser = torch.optim.Adam(student.parameters(), lr=0.05)
    for step in range(120):
        optimiser.param_groups[0]["lr"] = 0.05 * (1 - step / 120)
        law = oracles.gaussian([student.network.mean.item()], [student.network.std.item()])
        nets = {"student": student, "fake": oracles.as_model(law), "teacher": oracles.as_model(teacher)}
        optimiser.zero_grad()
        keys = randomness.keys_of(0, 200 * step, 200 * step + 200)
        method.loss(nets, {}, "student", 0.0, keys).mean().backward()
        optimiser.step()
    assert student.network.mean.item() == pytest.approx(0, abs=0.03)
    assert student.network.std.item() == pytest.approx(1, abs=0.03)
    nets["fake"] = nets["teacher"]
    assert method.loss(nets, {}, "student", 0.0, KEYS).abs().max() < 1e-9


def test_anyflow_of_one_step_is_dmd():
    model, keys = learned(0.4, 0.8), randomness.keys_of(0, 0, 20)
    teacher = oracles.as_model(oracles.gaussian([0.0], [1.0]))
    nets = {"student": model, "fake": oracles.as_model(oracles.gaussian([0.4], [0.8])), "teacher": teacher}
    found = Anyflow(steps=(1,)).loss(nets, {}, "student", 0.0, keys)
    model.config = replace(model.config, grid=grids.uniform(1))
    torch.testing.assert_close(found, Dmd().loss(nets, {}, "student", 0.0, keys), rtol=1e-5, atol=1e-8)


def test_a_map_weight_adds_the_loss_that_made_the_flow_map():
    teacher, times = oracles.gaussian([0.0], [1.0]), torch.linspace(0, 1, 257, dtype=torch.float64)
    states = torch.stack([teacher.position(teacher.noise(200), float(t)) for t in times], dim=1)
    batch = {"states": states, "times": times.expand(200, -1)}
    nets = {"student": learned(0.4, 0.8)} | dict.fromkeys(("fake", "teacher"), oracles.as_model(teacher))
    with_map, alone = Anyflow(map_weight=3.0), Anyflow()
    apart = with_map.loss(nets, batch, "student", 0.0, KEYS) - alone.loss(nets, {}, "student", 0.0, KEYS)
    torch.testing.assert_close(apart, 3 * FlowMap().loss(nets, batch, "student", 0.0, KEYS))
    nets["student"] = learned(0.0, 1.0)  # where teacher and student agree nothing is left
    assert with_map.loss(nets, batch, "student", 0.0, KEYS).max() < 1e-12
    assert (with_map.needs.stream, with_map.needs.all_states) == ("trajectories", True)
    assert (alone.needs.stream, alone.needs.all_states) == ("noise", False)


def test_a_map_weight_is_refused_beside_a_regression_on_pairs_and_not_beside_real_data():
    with pytest.raises(UserError, match="map_weight learns from trajectories and regression_weight from"):
        Anyflow(map_weight=1.0, regression_weight=1.0)
    needs = Anyflow(map_weight=1.0, gan_weight=1.0).needs
    assert (needs.stream, needs.all_states, needs.data) == ("trajectories", True, True)
    with pytest.raises(UserError, match="map_weight must be a weight from 0, got -1"):
        Anyflow(map_weight=-1)


@pytest.mark.parametrize("steps", [(), (0, 4), (2.5,)])
def test_impossible_numbers_of_steps_are_reported(steps):
    with pytest.raises(UserError, match=r"steps must be whole numbers from 1, got \["):
        Anyflow(steps=steps)


def test_anyflow_starts_from_a_flow_map_alone():
    raw = yaml.safe_load(Path("params.yaml").read_text())
    raw["trajectories"]["base"]["keep"] = "all"
    common = {"teacher": "base", "nfe": "any", "train": {"steps": 10}}
    raw["distill"]["any"] = common | {
        "method": "flow_map",
        "init": "base",
        "train_on": "trajectories/base",
    }
    raw["distill"]["finished"] = common | {"method": "anyflow", "init": "any", "train_on": "prepare"}
    checks.check(Params(raw))
    raw["distill"]["finished"]["method"] = {"name": "anyflow", "map_weight": 1.0}
    with pytest.raises(UserError, match="anyflow with map_weight learns from trajectories, not"):
        checks.check(Params(raw))
    raw["distill"]["finished"]["train_on"] = "trajectories/base"
    checks.check(Params(raw))
    for init, changes in (("base", {}), ("any", {"model": {"name": "unet", "width": 8}})):
        other = copy.deepcopy(raw)
        other["distill"]["finished"] |= {"init": init} | changes
        with pytest.raises(UserError, match=rf"finished\.init '{init}' is no flow map, which method anyflow"):
            checks.check(Params(other))
