"""flow_map: no loss at the exact map, the steps that it learns from, and what it refuses."""

from itertools import product

import pytest
import torch
from flow_maps import as_flow_map
from oracles import gaussian, mixture

from fewstep import grids, paths, predictions, randomness
from fewstep.errors import UserError
from fewstep.flow import as_flow
from fewstep.methods._between import state_at
from fewstep.methods.endpoint import Endpoint
from fewstep.methods.flow_map import FlowMap
from fewstep.methods.straighten import Straighten
from fewstep.model import ModelConfig, build
from fewstep.solvers import integrate
from fewstep.timing import with_second_time

ORACLE = gaussian([1.0, -0.5], [0.5, 1.5])
ON_A_LINE = mixture([0.3, 0.7], [[2.0], [-1.0]], [0.3, 0.6])
AT_STORED = FlowMap(between=False)
FINE = grids.Grid((0.0, 0.05, 0.3, 0.31, 0.6, 0.9, 1.0))


def trajectories(oracle, n, start=0.0, stored=FINE.times):
    """Return a batch of exact states at the stored times, from `start` on."""
    times = torch.tensor([max(time, start) for time in stored], dtype=torch.float64)
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
    assert loss(AT_STORED, model, trajectories(ORACLE, 200, as_flow(model).t_start)).max() < close


def test_the_exact_map_of_a_mixture_has_no_loss_and_another_has():
    batch = trajectories(ON_A_LINE, 100)
    assert loss(AT_STORED, as_flow_map(ON_A_LINE), batch).max() < 1e-12
    other = mixture([0.3, 0.7], [[2.1], [-1.0]], [0.3, 0.6])
    assert loss(AT_STORED, as_flow_map(other), batch).mean() > 1e-4


def test_between_stored_states_the_exact_map_has_a_loss_that_falls_with_their_distance():
    """An error of h^4 in the states is one of h^3, squared, in the velocity of short steps."""
    worst = [
        loss(
            FlowMap(), as_flow_map(ORACLE), trajectories(ORACLE, 500, stored=grids.uniform(steps).times)
        ).max()
        for steps in (8, 16, 32)
    ]
    assert worst[0] < 2e-3
    assert worst[1] < worst[0] / 30
    assert worst[2] < worst[1] / 30


def test_a_student_in_range_learns_the_clamped_end():
    batch = trajectories(ORACLE, 200)
    assert loss(AT_STORED, as_flow_map(ORACLE, in_range=True), batch).max() < 1e-12
    assert batch["states"][:, -1].abs().max() > 1


SHARES = pytest.mark.parametrize(
    ("to_data", "from_noise"), [(0.5, 0.125), (0.0, 0.0), (1.0, 0.3), (0.2, 1.0)]
)


@SHARES
def test_steps_between_stored_states_go_forward_and_their_ends_have_the_shares_that_were_asked(
    to_data, from_noise
):
    n = 40_000
    times = torch.tensor([0.2, 0.4, 0.9, 1.0], dtype=torch.float64).expand(n, -1)
    t, until = FlowMap(to_data=to_data, from_noise=from_noise).steps(times, randomness.keys_of(0, 0, n))
    assert (until - t).min() >= 0.8e-3 * (1 - 1e-9)
    assert t.min() >= 0.2
    assert until.max() <= 1
    assert (until == 1).double().mean() == pytest.approx(to_data, abs=0.01)
    assert (t == 0.2).double().mean() == pytest.approx(from_noise, abs=0.01)
    if not to_data + from_noise:  # two uniform times in order: the share of both below x is x^2
        for x in (0.25, 0.5, 0.75):
            assert (until < 0.2 + 0.8 * x).double().mean() == pytest.approx(x**2, abs=0.01)
            assert (t > 0.2 + 0.8 * x).double().mean() == pytest.approx((1 - x) ** 2, abs=0.01)


@SHARES
def test_steps_at_stored_states_go_forward_and_their_ends_have_the_shares_that_were_asked(
    to_data, from_noise
):
    stored, n = 6, 40_000
    method = FlowMap(to_data=to_data, from_noise=from_noise, between=False)
    times = torch.arange(stored).double().expand(n, -1)
    start, end = (time.long() for time in method.steps(times, randomness.keys_of(0, 0, n)))
    assert (start < end).all()
    assert (start.min(), end.max()) == (0, stored - 1)
    pairs = stored * (stored - 1) / 2
    by_chance = (stored - 1) / pairs
    assert (end == stored - 1).double().mean() == pytest.approx(to_data + (1 - to_data) * by_chance, abs=0.01)
    assert (start == 0).double().mean() == pytest.approx(from_noise + (1 - from_noise) * by_chance, abs=0.01)
    if not to_data + from_noise:
        counts = torch.bincount(start * stored + end)
        assert counts[counts > 0].double() == pytest.approx(n / pairs, rel=0.1)


@pytest.mark.parametrize("stored", [2, 3, 4, 7])
def test_states_between_stored_ones_lie_on_cubics_through_them(stored):
    n, shape = 50, (2, 3)
    drawn = torch.Generator().manual_seed(0)
    times = torch.rand(n, stored, generator=drawn, dtype=torch.float64).sort(dim=1).values
    factors = torch.randn(min(4, stored), n, *shape, generator=drawn, dtype=torch.float64)

    def polynomial(t):
        return sum(factor * t.view(-1, 1, 1) ** power for power, factor in enumerate(factors))

    states = torch.stack([polynomial(times[:, position]) for position in range(stored)], dim=1)
    part = torch.rand(n, generator=drawn, dtype=torch.float64)
    t = times[:, 0] + part * (times[:, -1] - times[:, 0])
    torch.testing.assert_close(state_at(states, times, t), polynomial(t), atol=1e-7, rtol=1e-6)
    for position in range(stored):
        at_stored = state_at(states, times, times[:, position])
        torch.testing.assert_close(at_stored, states[:, position], atol=0, rtol=0)


def test_no_step_starts_where_the_flow_gives_no_velocity():
    model = as_flow_map(ORACLE, prediction="data")
    end, asked = as_flow(model).t_end, []
    model.network.register_forward_pre_hook(lambda _, given: asked.append(given[1].max()))
    batch = trajectories(ORACLE, 4000, stored=grids.uniform(32).times)
    loss(FlowMap(to_data=0.9, from_noise=0.0), model, batch)
    assert max(asked) <= end


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
