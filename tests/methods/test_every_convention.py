"""The exact answer is a fixed point of each regression method in every convention of path and prediction."""

from dataclasses import replace

import pytest
import torch
from flow_maps import as_flow_map
from oracles import as_model, gaussian
from test_fixed_points import CONVENTIONS, ORACLE, REFLOWED, Phases, Shifted, pairs

from fewstep import grids, paths, predictions, randomness
from fewstep.flow import as_flow, usable_times
from fewstep.methods.consistency import Consistency
from fewstep.methods.meanflow import Meanflow
from fewstep.methods.phased import Phased
from fewstep.methods.reflow import Reflow
from fewstep.methods.shortcut import Shortcut
from fewstep.methods.straighten import Straighten
from fewstep.model import Model
from fewstep.noises import GAUSSIAN
from fewstep.paths import like

N = 50
KEYS = randomness.keys_of(0, 0, N)
MAP = {"name": "oracle", "second_time": True, "slow_times": True}
JUMP = {"architecture": {"name": "oracle"}, "trained_times": "until_1", "grid": grids.uniform(1)}
every_convention = pytest.mark.parametrize(("path", "prediction"), CONVENTIONS)


def off(model, by=0.1):
    """Return the model with another output."""
    shifted = Shifted(model, N)
    shifted.shift.data += by
    return shifted


@pytest.mark.parametrize("on_policy", [True, False])
@every_convention
def test_straighten_has_no_loss_on_the_chords_between_timesteps(path, prediction, on_policy):
    oracle, noise = Phases(ORACLE.mean, ORACLE.std), ORACLE.noise(N)
    model = as_model(oracle, path=path, prediction=prediction)
    grid = grids.Grid((as_flow(model).t_start, 0.2, 0.5, 1.0))
    object.__setattr__(oracle, "edges", grid.times)
    model.config = replace(model.config, grid=grid, trained_times="grid")
    batch = {"states": torch.stack([ORACLE.position(noise, t) for t in grid.times], dim=1)}
    method = Straighten(on_policy=on_policy)
    exact, wrong = (method.loss({"student": m}, batch, "student", 0.0, KEYS) for m in (model, off(model)))
    assert exact.max() < 1e-6
    assert wrong.max() > 100 * exact.max()


@every_convention
def test_meanflow_has_no_loss_where_averages_are_the_velocity(path, prediction):
    model = as_model(REFLOWED, path=path, prediction=prediction)
    model = Model(replace(model.config, architecture=MAP), model.network)
    method = Meanflow(power=0, exact=True)
    batch = method.prepare_batch(pairs(N), KEYS, GAUSSIAN)
    exact, wrong = (method.loss({"student": m}, batch, "student", 0.0, KEYS) for m in (model, off(model)))
    assert exact.max() < 1e-6
    assert wrong.max() > 100 * exact.max()


@every_convention
def test_shortcut_has_no_loss_at_the_exact_map(path, prediction):
    convention = {"path": path, "prediction": prediction}
    nets = {name: as_flow_map(ORACLE, **convention) for name in ("student", "target")}
    method = Shortcut(halves=1.0, finest=16)
    batch = method.prepare_batch({"data": ORACLE.sample(N)}, KEYS, GAUSSIAN)
    other = {"target": as_flow_map(gaussian([1.0, -0.5], [0.6, 1.5]), **convention)}
    exact, wrong = (method.loss(nets | changed, batch, "student", 0.0, KEYS) for changed in ({}, other))
    assert exact.median() < 1e-9
    assert exact.mean() < 1e-4  # a step until data counts, also where a path ends before
    assert wrong.mean() > 10 * exact.mean()


@every_convention
def test_consistency_by_a_teacher_is_exact_up_to_its_heun_step(path, prediction):
    convention = {"path": path, "prediction": prediction}
    nets = {name: as_flow_map(ORACLE, **JUMP, **convention) for name in ("student", "target")}
    batch = {"data": ORACLE.sample(N)}

    def loss(teacher, intervals):
        asked = nets | {"teacher": as_model(teacher, **convention)}
        return Consistency(intervals=(intervals, intervals)).loss(asked, batch, "student", 1.0, KEYS).mean()

    coarse, fine = loss(ORACLE, 8), loss(ORACLE, 64)
    assert fine < 1e-5
    assert fine < coarse
    assert loss(gaussian([1.5, -0.5], [0.5, 1.5]), 64) > 10 * fine


@pytest.mark.parametrize("gamma", [0.5, 2.0])
@pytest.mark.parametrize("prediction", predictions.PARTS)
def test_reflow_has_no_loss_on_a_path_with_gamma(gamma, prediction):
    model = as_model(REFLOWED, path={"name": "linear", "gamma": gamma}, prediction=prediction)
    batch = Reflow().prepare_batch(pairs(N), KEYS, GAUSSIAN)
    exact, wrong = (Reflow().loss({"student": m}, batch, "student", 0.0, KEYS) for m in (model, off(model)))
    assert exact.max() < 1e-9
    assert wrong.min() > 1e-9


def seen_in_phases(path, prediction, part, monkeypatch):
    """Return the points at which phased asks, on the canonical path, its states and the times."""
    model, seen = as_model(REFLOWED, path=path, prediction=prediction), []
    model.config = replace(model.config, grid=grids.Grid((0.01, 0.3, 1.0)), trained_times="grid")
    model.register_forward_hook(lambda module, args, output: seen.append(args))
    states = torch.stack([ORACLE.position(ORACLE.noise(N), t) for t in model.config.grid.times], dim=1)
    drawn = randomness.uniforms
    with monkeypatch.context() as patch:
        patch.setattr(
            randomness,
            "uniforms",
            lambda stream, keys: torch.full((N,), part) if "phase" in stream else drawn(stream, keys),
        )
        Phased().loss({"student": model}, {"states": states}, "student", 0.0, KEYS)
    ((x, t),) = seen
    law = paths.get(path)
    c = law.coefficients(t)
    return x / like(c.a + c.b, x), states, law.canonical_time(t)


@pytest.mark.parametrize("part", [0.0, 1.0])
def test_points_at_the_edges_of_a_phase_are_its_states(part, monkeypatch):
    """Wang et al. 2024 (arXiv 2410.07303): at an edge the chord is the state there."""
    x, states, t = seen_in_phases("linear", "velocity", part, monkeypatch)
    times = torch.tensor([0.01, 0.3, 1.0], dtype=torch.float64)
    edge = (t[:, None] - times).abs().argmin(dim=1)
    torch.testing.assert_close(t, times[edge], rtol=0, atol=1e-12)
    torch.testing.assert_close(x, states[torch.arange(N), edge], rtol=1e-12, atol=1e-12)


@every_convention
def test_no_point_of_a_phase_is_later_than_a_velocity_can_be_asked_for(path, prediction, monkeypatch):
    *_, t = seen_in_phases(path, prediction, 1 - 1e-9, monkeypatch)
    assert t.max() > 0.99  # some are in the last phase
    assert t.max() <= usable_times(path, prediction)[1] + 1e-9


@pytest.mark.parametrize(("path", "prediction"), [("vp", "noise"), ("cosine", "v"), ("ve", "noise")])
def test_the_points_of_a_phase_are_the_same_on_every_schedule(path, prediction, monkeypatch):
    here, *_ = seen_in_phases(path, prediction, 0.6, monkeypatch)
    plain, *_ = seen_in_phases("linear", "velocity", 0.6, monkeypatch)
    torch.testing.assert_close(here, plain, rtol=1e-10, atol=1e-10)
