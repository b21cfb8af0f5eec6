"""flow_map: no loss at the exact map, the steps that it learns from, and what it refuses."""

from itertools import product

import pytest
import torch
from flow_maps import as_flow_map
from oracles import gaussian, mixture

from fewstep import grids, paths, predictions, randomness
from fewstep.errors import UserError
from fewstep.flow import as_flow
from fewstep.methods.endpoint import Endpoint
from fewstep.methods.flow_map import FlowMap
from fewstep.methods.straighten import Straighten
from fewstep.model import ModelConfig, build
from fewstep.solvers import integrate
from fewstep.timing import with_second_time

ORACLE = gaussian([1.0, -0.5], [0.5, 1.5])
ON_A_LINE = mixture([0.3, 0.7], [[2.0], [-1.0]], [0.3, 0.6])
FINE = grids.Grid((0.0, 0.05, 0.3, 0.31, 0.6, 0.9, 1.0))


def trajectories(oracle, n, start=0.0):
    """Return a batch of exact states at the fine times, from `start` on."""
    times = torch.tensor([max(time, start) for time in FINE.times], dtype=torch.float64)
    noise, flow = (1 - times[0]) * oracle.noise(n), as_flow(as_flow_map(oracle))
    states = [noise + (t - times[0]) * flow(noise, float(times[0]), until=float(t)) for t in times]
    return {"states": torch.stack(states, dim=1), "times": times.expand(n, -1)}


def loss(method, model, batch):
    keys = randomness.keys_of(0, 0, len(batch["states"]))
    return method.loss({"student": model}, batch, "student", 0.0, keys)


@pytest.mark.parametrize(("path", "prediction"), list(product(paths.PATHS, predictions.PARTS)))
def test_the_exact_map_has_no_loss_in_any_convention(path, prediction):
    model = as_flow_map(ORACLE, path=path, prediction=prediction)
    close = {"ve": 1e-3, "edm": 1e-3, "table": 2e-2}.get(
        path, 1e-6
    )  # their own times end at a noise of .002 and .01
    assert loss(FlowMap(), model, trajectories(ORACLE, 200, as_flow(model).t_start)).max() < close


def test_the_exact_map_of_a_mixture_has_no_loss_and_another_has():
    batch = trajectories(ON_A_LINE, 100)
    assert loss(FlowMap(), as_flow_map(ON_A_LINE), batch).max() < 1e-12
    other = mixture([0.3, 0.7], [[2.1], [-1.0]], [0.3, 0.6])
    assert loss(FlowMap(), as_flow_map(other), batch).mean() > 1e-4


def test_a_student_in_range_learns_the_clamped_end():
    batch = trajectories(ORACLE, 200)
    assert loss(FlowMap(), as_flow_map(ORACLE, in_range=True), batch).max() < 1e-12
    assert batch["states"][:, -1].abs().max() > 1


@pytest.mark.parametrize(("to_data", "from_noise"), [(0.5, 0.125), (0.0, 0.0), (1.0, 0.3), (0.2, 1.0)])
def test_steps_go_forward_and_their_ends_have_the_shares_that_were_asked(to_data, from_noise):
    stored, n = 6, 40_000
    method = FlowMap(to_data=to_data, from_noise=from_noise)
    start, end = method.steps(stored, randomness.keys_of(0, 0, n))
    assert (start < end).all()
    assert (start.min(), end.max()) == (0, stored - 1)
    pairs = stored * (stored - 1) / 2
    by_chance = (stored - 1) / pairs
    assert (end == stored - 1).double().mean() == pytest.approx(to_data + (1 - to_data) * by_chance, abs=0.01)
    assert (start == 0).double().mean() == pytest.approx(from_noise + (1 - from_noise) * by_chance, abs=0.01)
    if not to_data + from_noise:
        counts = torch.bincount(start * stored + end)
        assert counts[counts > 0].double() == pytest.approx(n / pairs, rel=0.1)


@pytest.mark.parametrize("method", [Straighten(), Straighten(on_policy=False), Endpoint()])
def test_methods_of_a_grid_train_the_average_over_its_steps(method):
    """They leave an exact flow map alone, though it is exact for steps and not for velocities at one time."""
    grid = grids.Grid(FINE.times) if method.needs.stream == "trajectories" else grids.uniform(1)
    model = as_flow_map(ORACLE, grid=grid, trained_times="grid")
    batch = trajectories(ORACLE, 50)
    batch |= {"noise": batch["states"][:, 0], "data": batch["states"][:, -1]}
    assert loss(method, model, batch).max() < 1e-12


def test_a_trained_flow_map_ends_alike_in_one_step_and_four():
    architecture = {"name": "mlp", "width": 32, "depth": 1}
    model = with_second_time(build(ModelConfig(architecture=architecture, shape=(1,)), seed=0), seed=0)
    batch = {name: tensor.float() for name, tensor in trajectories(ON_A_LINE, 512).items()}
    optimiser = torch.optim.Adam(model.parameters(), lr=5e-3)
    for step in range(400):
        keys = randomness.keys_of(1, step * 512, (step + 1) * 512)
        optimiser.zero_grad()
        FlowMap().loss({"student": model}, batch, "student", 0.0, keys).mean().backward()
        optimiser.step()
    noise = ON_A_LINE.noise(500, seed=7).float()
    truth = integrate(as_flow(as_flow_map(ON_A_LINE)), noise, grids.uniform(1)).x
    for steps in (1, 4):
        found = integrate(as_flow(model), noise, grids.uniform(steps)).x
        assert (found - truth).square().mean().sqrt() < 0.3  # one Euler step of the flow itself: 1.5


def test_impossible_shares_and_unsuitable_batches_are_refused():
    with pytest.raises(UserError, match="to_data is a share from 0 to 1, got 2"):
        FlowMap(to_data=2)
    with pytest.raises(UserError, match=r"from_noise is a share from 0 to 1, got -0\.1"):
        FlowMap(from_noise=-0.1)
    batch = trajectories(ORACLE, 3)
    with pytest.raises(UserError, match="the batch has no times; keep all states"):
        loss(FlowMap(), as_flow_map(ORACLE), {"states": batch["states"]})
