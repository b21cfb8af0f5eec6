"""Models whose velocity is the average over a step: how they start, are sampled, kept and refused."""

from dataclasses import replace
from itertools import product

import pytest
import torch
from flow_maps import as_flow_map, average_velocity
from oracles import as_model, gaussian, mixture

from fewstep import paths, predictions, registry
from fewstep.checkpoint import load_model, save_model
from fewstep.errors import UserError
from fewstep.flow import as_flow
from fewstep.grids import Grid, uniform
from fewstep.model import ModelConfig, build
from fewstep.solvers import integrate
from fewstep.timing import with_second_time

ORACLE = gaussian([1.0, -0.5], [0.5, 1.5])
ON_A_LINE = mixture([0.3, 0.7], [[2.0], [-1.0]], [0.3, 0.6])
GRIDS = [*map(uniform, (1, 2, 4, 8)), Grid((0.0, 0.13, 0.8, 1.0))]
SHAPES = {"adm": (1, 4, 4), "dit": (1, 4, 4), "mlp": (2,), "unet": (1, 8, 8)}
WIDTHS = {"adm": 32, "dit": 8, "mlp": 8, "unet": 8}


@pytest.mark.parametrize("grid", GRIDS, ids=lambda grid: str(grid.times))
@pytest.mark.parametrize(("path", "prediction"), list(product(paths.PATHS, predictions.PARTS)))
def test_an_exact_flow_map_is_exact_on_any_grid_in_every_convention(path, prediction, grid):
    flow, noise = as_flow(as_flow_map(ORACLE, path=path, prediction=prediction)), ORACLE.noise(50)
    times = tuple(max(time, flow.t_start) for time in grid.times)
    start = torch.full((50,), times[0], dtype=torch.float64)
    shrunk = (1 - times[0]) * noise
    wanted = shrunk + (1 - times[0]) * average_velocity(ORACLE, shrunk, start, torch.ones_like(start))
    solution = integrate(flow, noise, Grid(times))
    assert solution.nfe == grid.steps
    close = {"ve": 1e-2, "edm": 1e-2, "table": 5e-2}.get(
        path, 1e-12
    )  # their own times end at a noise of .002 and .01
    torch.testing.assert_close(solution.x, wanted, atol=close, rtol=0)


@pytest.mark.parametrize("grid", GRIDS, ids=lambda grid: str(grid.times))
def test_the_map_of_a_mixture_ends_where_its_flow_does(grid):
    noise = ON_A_LINE.noise(50)
    truth = integrate(as_flow(as_model(ON_A_LINE)), noise, uniform(256, solver="rk4")).x
    found = integrate(as_flow(as_flow_map(ON_A_LINE)), noise, grid).x
    torch.testing.assert_close(found, truth, atol=1e-6, rtol=0)
    in_one = integrate(as_flow(as_flow_map(ON_A_LINE)), noise, uniform(1)).x
    torch.testing.assert_close(found, in_one, atol=1e-12, rtol=0)


def test_a_step_of_no_length_gives_the_velocity():
    flow, x, t = as_flow(as_flow_map(ORACLE)), ORACLE.noise(5), torch.linspace(0, 1, 5).double()
    assert torch.equal(flow(x, t), flow(x, t, until=t))
    torch.testing.assert_close(flow(x, t), ORACLE.velocity(x, t))


def small(name, **config):
    architecture = {"name": name, "width": WIDTHS[name]}
    facts = {"architecture": architecture, "shape": SHAPES[name], "classes": 3}
    model = build(ModelConfig(**facts | config), seed=0)
    with torch.no_grad():  # a fresh network's output is zero
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return model.eval()


def asked(name):
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(6, *SHAPES[name], generator=generator)
    return x, 0.5 * torch.rand(6, generator=generator), torch.tensor([0, 1, 2, 3, 0, 1])


@pytest.mark.parametrize("name", SHAPES)
def test_a_second_time_changes_nothing_at_first_and_is_then_learned(name):
    model, (x, t, label) = small(name), asked(name)
    wider = with_second_time(model, seed=3)
    before = {key: tensor.clone() for key, tensor in wider.state_dict().items()}
    until = t + 0.5 * torch.rand(6, generator=torch.Generator().manual_seed(3))
    assert torch.equal(wider(x, t, label=label), model(x, t, label=label))
    assert torch.equal(wider(x, t, label=label, until=until), model(x, t, label=label))
    optimiser = torch.optim.Adam(wider.parameters(), lr=0.01)
    for _ in range(2):  # the last layer first, for it starts at zero; then what lies before it
        optimiser.zero_grad()
        wider(x, t, label=label, until=until).square().sum().backward()
        optimiser.step()
    added = wider.state_dict().keys() - model.state_dict().keys()
    assert len(added) == 4
    assert all(not torch.equal(wider.state_dict()[key], before[key]) for key in added)
    assert not torch.allclose(wider(x, t, label=label, until=until), wider(x, t, label=label))
    assert torch.equal(wider(x, t, label=label, until=t), wider(x, t, label=label))


def test_what_a_second_time_adds_depends_on_the_seed_alone():
    first, again, other = (with_second_time(small("mlp"), seed=seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


def test_a_model_directory_keeps_the_second_time(tmp_path):
    model, (x, t, label) = with_second_time(small("mlp"), seed=3), asked("mlp")
    torch.nn.init.ones_(model.network.condition.until[-1].weight)
    save_model(tmp_path, model)
    again = load_model(tmp_path)
    assert again.config.velocity_until == "any"
    assert torch.equal(again(x, t, label=label, until=t + 0.1), model(x, t, label=label, until=t + 0.1))
    assert not torch.equal(again(x, t, label=label), again(x, t, label=label, until=t + 0.1))


def test_only_a_step_until_data_is_clamped():
    flow = as_flow(as_flow_map(ORACLE, in_range=True))
    noise = ORACLE.noise(200)
    end = torch.ones(200, dtype=torch.float64)
    exact = noise + average_velocity(ORACLE, noise, 0 * end, end)
    assert (exact.abs() > 1).any()
    torch.testing.assert_close(noise + flow(noise, 0.0, until=1.0), exact.clamp(-1, 1))
    torch.testing.assert_close(
        flow(noise, 0.9, until=0.95), average_velocity(ORACLE, noise, 0.9 * end, 0.95 * end)
    )
    torch.testing.assert_close(flow(noise, 0.9), ORACLE.velocity(noise, 0.9 * end))


def test_a_consistency_model_takes_one_step():
    model = as_flow_map(ORACLE, architecture={"name": "oracle"}, trained_times="until_1", grid=uniform(1))
    noise = ORACLE.noise(9)
    torch.testing.assert_close(
        integrate(as_flow(model), noise, uniform(1)).x, ORACLE.mean + ORACLE.std * noise
    )
    with pytest.raises(UserError, match="jump to data in one step; the grid has 2: take 1"):
        integrate(as_flow(model), noise, uniform(2))
    with pytest.raises(UserError, match="must carry a grid of one step"):
        replace(model.config, grid=uniform(2))


@pytest.mark.parametrize(
    "solver", [name for name in registry.available("fewstep.solvers") if name != "euler"]
)
def test_other_solvers_refuse_average_velocities(solver):
    with pytest.raises(
        UserError, match=f"are for Euler steps; the grid's solver is {solver}: set it to euler"
    ):
        integrate(as_flow(as_flow_map(ORACLE)), ORACLE.noise(2), uniform(2, solver=solver))


def test_a_network_without_a_second_time_refuses_one():
    with pytest.raises(UserError, match="whose network has no second time"):
        as_flow(small("mlp"))(torch.zeros(1, 2), 0.0, until=1.0, label=torch.tensor([0]))
    for name, shape in SHAPES.items():
        with pytest.raises(UserError, match="network without a second time"):
            small(name)(torch.zeros(1, *shape), torch.zeros(1), until=torch.ones(1), label=torch.tensor([0]))


def test_networks_that_can_not_take_a_second_time_are_refused(monkeypatch):
    design = registry.find("fewstep.models", "mlp")
    plain = design.build
    monkeypatch.setattr(design, "build", lambda self, shape, classes: plain(self, shape, classes))
    with pytest.raises(UserError, match="model mlp can't be given second time: its build does not take it"):
        with_second_time(small("mlp"), seed=0)
