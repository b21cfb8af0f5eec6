"""Each method at its closed-form optimum: the loss there is known, and nothing pulls away from it."""

import math
from dataclasses import replace
from itertools import product

import pytest
import torch
from flow_maps import as_flow_map
from oracles import Gaussian, as_model, gaussian
from torch import nn

from fewstep import grids, paths, predictions, randomness
from fewstep.errors import UserError
from fewstep.flow import as_flow
from fewstep.methods.endpoint import Endpoint
from fewstep.methods.flow_guided import FlowGuided
from fewstep.methods.flow_matching import FlowMatching
from fewstep.methods.phased import Phased
from fewstep.methods.reflow import Reflow
from fewstep.methods.straighten import Straighten
from fewstep.model import Model, ModelConfig, build
from fewstep.noises import GAUSSIAN
from fewstep.paths import like
from fewstep.solvers import integrate, walk

ORACLE = gaussian([1.0, -0.5], [0.5, 1.5])
CONVENTIONS = list(product(paths.PATHS, predictions.PARTS))


class Reflowed(Gaussian):
    """The flow of the pairs (noise, mean + std noise): given x, noise and data are known."""

    def posterior(self, x, a, b):
        a, b, mean, std = like(a, x), like(b, x), self.mean.to(x), self.std.to(x)
        noise = (x - a * mean) / (a * std + b)
        return mean + std * noise, noise


REFLOWED = Reflowed(ORACLE.mean, ORACLE.std)


def pairs(n):
    noise = ORACLE.noise(n)
    return {"noise": noise, "data": ORACLE.mean + ORACLE.std * noise}


class Shifted(nn.Module):
    """A model whose output is off by `shift`, one number a sample."""

    def __init__(self, model, n):
        super().__init__()
        self.model, self.config, self.noise = model, model.config, model.noise
        self.shift = torch.zeros(n, dtype=torch.float64, requires_grad=True)

    def forward(self, x, t, **conditions):
        return self.model(x, t, **conditions) + like(self.shift, x)


def test_flow_matching_leaves_the_irreducible_loss():
    n, method = 20_000, FlowMatching()
    keys = randomness.keys_of(0, 0, n)
    batch = method.prepare_batch({"data": ORACLE.sample(n)}, keys, GAUSSIAN)
    losses = method.loss({"student": as_model(ORACLE)}, batch, "student", 0.0, keys)
    expected = ORACLE.irreducible_loss / 2  # a mean over two dimensions, not a sum
    assert float(losses.mean()) == pytest.approx(expected, abs=4 * float(losses.std()) / math.sqrt(n))


@pytest.mark.parametrize(("path", "prediction"), CONVENTIONS)
def test_flow_matching_does_not_move_the_exact_field(path, prediction):
    n, method = 4000, FlowMatching(times="logit_normal")
    keys = randomness.keys_of(0, 0, n)
    model = Shifted(as_model(ORACLE, path=path, prediction=prediction), n)
    losses = method.loss(
        {"student": model},
        method.prepare_batch({"data": ORACLE.sample(n)}, keys, GAUSSIAN),
        "student",
        0.0,
        keys,
    )
    (gradient,) = torch.autograd.grad(losses.sum(), model.shift)
    assert abs(gradient.mean()) < 4 * gradient.std() / math.sqrt(n)


@pytest.mark.parametrize("distance", ["l2", "huber", "huber_each"])
@pytest.mark.parametrize(("path", "prediction"), CONVENTIONS)
def test_reflow_on_any_path_has_no_loss_at_the_reflowed_field(path, prediction, distance):
    method, keys = Reflow(distance=distance), randomness.keys_of(0, 0, 50)
    model = as_model(REFLOWED, path=path, prediction=prediction)
    batch = method.prepare_batch(pairs(50), keys, GAUSSIAN)
    assert method.loss({"student": model}, batch, "student", 0.0, keys).max() < 1e-9
    off = Shifted(model, 50)
    off.shift.data += 0.1
    assert method.loss({"student": off}, batch, "student", 0.0, keys).min() > 1e-9


@pytest.mark.parametrize(("path", "prediction"), CONVENTIONS)
def test_an_error_of_the_data_is_that_of_the_data_which_the_prediction_stands_for(path, prediction):
    """Wang et al. 2024 (arXiv 2410.07303): for noise, data = (x - b noise) / a."""
    model, keys, seen = as_model(ORACLE, path=path, prediction=prediction), randomness.keys_of(0, 0, 50), []
    model.register_forward_hook(lambda module, args, output: seen.append((*args, output)))
    batch = pairs(50)
    error = Reflow().errors(model, batch, keys).data
    exact, huber = (
        as_model(REFLOWED, path=path, prediction=prediction),
        Reflow(distance="huber_each", compare="data"),
    )
    assert huber.loss({"student": exact}, batch, "student", 0.0, keys).max() < 1e-9
    of_each = ((error**2 + 1e-6).sqrt() - 1e-3).mean(dim=1)
    torch.testing.assert_close(huber.loss({"student": model}, batch, "student", 0.0, keys), of_each)
    x, t, output = seen[0]
    data, _ = predictions.solve(prediction, x, output, paths.get(path).coefficients(t))
    torch.testing.assert_close(error, data - batch["data"], rtol=1e-6, atol=1e-6)


def test_rectified_noise_prediction_is_constant_on_its_path_and_one_step_is_many():
    """On the VP path, without conversion; Wang et al. 2024 (arXiv 2410.07303), section 3."""
    model = as_model(REFLOWED, path="vp", prediction="noise")
    flow, batch = as_flow(model), pairs(20)
    one, many = (grids.uniform(steps, start=flow.t_start) for steps in (1, 50))
    seen = []
    model.register_forward_hook(lambda module, args, output: seen.append(output.clone()))
    ends = [integrate(flow, batch["noise"], grid).x for grid in (one, many)]
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-9, atol=1e-9)
    for noise in seen:
        torch.testing.assert_close(noise, seen[0], rtol=1e-7, atol=1e-7)


def test_ddim_on_the_vp_path_is_euler_on_the_canonical_one():
    model = as_model(ORACLE, path="vp", prediction="noise")
    flow, path, noise = as_flow(model), paths.get("vp"), ORACLE.noise(20)
    grid = grids.uniform(7, start=flow.t_start)
    times = path.time_of(torch.tensor(grid.times, dtype=torch.float64))
    c = path.coefficients(times)
    x = noise * c.b[0]
    for i in range(grid.steps):
        predicted = model(x, times[i].expand(len(x)))
        x = c.a[i + 1] * (x / c.a[i] + (c.b[i + 1] / c.a[i + 1] - c.b[i] / c.a[i]) * predicted)
    torch.testing.assert_close(x, integrate(flow, noise, grid).x * (c.a[-1] + c.b[-1]), rtol=1e-10, atol=0)


@pytest.mark.parametrize("distance", ["l2", "huber"])
@pytest.mark.parametrize("grid", [grids.uniform(1), grids.Grid((0.0, 0.3, 1.0))])
def test_endpoint_has_no_loss_at_the_reflowed_field_and_lands_on_the_data(grid, distance):
    method, keys = Endpoint(distance=distance), randomness.keys_of(0, 0, 50)
    model = as_model(REFLOWED)
    model.config = replace(model.config, grid=grid, trained_times="grid")
    batch = pairs(50)
    assert method.loss({"student": model}, batch, "student", 0.0, keys).max() < 1e-12
    torch.testing.assert_close(integrate(as_flow(model), batch["noise"], grid).x, batch["data"])


class Straight(Gaussian):
    """The flow that goes straight from (1 - t_start) noise to mean + std noise."""

    t_start = 0.0

    def posterior(self, x, a, b):
        t, y = like(a / (a + b), x), x / like(a + b, x)
        mean, std, share = self.mean.to(x), self.std.to(x), (t - self.t_start) / (1 - self.t_start)
        noise = (y - share * mean) / (share * std + 1 - t)
        velocity = (mean + std * noise) / (1 - self.t_start) - noise
        return y + (1 - t) * velocity, y - t * velocity


@pytest.mark.parametrize("distance", ["l2", "huber"])
@pytest.mark.parametrize("inner", [(), (0.3, 0.7)])
@pytest.mark.parametrize(("path", "prediction"), CONVENTIONS)
def test_endpoint_lands_on_the_data_wherever_the_path_starts(path, prediction, inner, distance):
    method, keys, batch = Endpoint(distance=distance), randomness.keys_of(0, 0, 50), pairs(50)
    oracle = Straight(ORACLE.mean, ORACLE.std)
    model = as_model(oracle, path=path, prediction=prediction)
    flow = as_flow(model)
    grid = grids.Grid((flow.t_start, *inner, 1.0))
    object.__setattr__(oracle, "t_start", flow.t_start)
    model.config = replace(model.config, grid=grid, trained_times="grid")
    assert method.loss({"student": model}, batch, "student", 0.0, keys).max() < 1e-8
    torch.testing.assert_close(integrate(flow, batch["noise"], grid).x, batch["data"], atol=1e-4, rtol=0)


def test_endpoint_with_one_step_calls_the_network_at_the_noise_alone():
    seen = []
    model = as_model(REFLOWED)
    model.config = replace(model.config, grid=grids.uniform(1))
    model.register_forward_hook(lambda module, args, output: seen.append(args))
    batch = pairs(7)
    Endpoint().loss({"student": model}, batch, "student", 0.0, randomness.keys_of(0, 0, 7))
    ((x, t),) = seen
    assert torch.equal(x, batch["noise"])
    assert not t.any()


GRID = grids.Grid((0.0, 0.2, 0.5, 1.0))


class PerTimestep(nn.Module):
    """A linear velocity for each timestep: all that a student of a Gaussian needs."""

    def __init__(self):
        super().__init__()
        self.slope, self.shift = (nn.Parameter(torch.zeros(GRID.steps, 2, dtype=torch.float64)) for _ in "ab")

    def forward(self, x, t):
        timestep = (t[:, None] - torch.tensor(GRID.times)).abs().argmin(dim=1)
        return self.slope[timestep] * x + self.shift[timestep]


@pytest.mark.parametrize("on_policy", [True, False])
def test_straighten_reaches_zero_loss_and_then_euler_is_exact(on_policy):
    method, noise = Straighten(on_policy=on_policy), ORACLE.noise(60)
    config = ModelConfig(architecture={"name": "per timestep"}, shape=(2,), grid=GRID, trained_times="grid")
    model = Model(config, PerTimestep())
    batch = {"states": torch.stack([ORACLE.position(noise, t) for t in GRID.times], dim=1)}
    optimiser = torch.optim.LBFGS(model.parameters(), max_iter=300, tolerance_grad=1e-12, tolerance_change=0)

    def closure():
        optimiser.zero_grad()
        losses = method.loss({"student": model}, batch, "student", 0.0, randomness.keys_of(0, 0, 60))
        losses.mean().backward()
        return losses.mean()

    for _ in range(3):
        optimiser.step(closure)
    assert closure() < 1e-12
    endpoint = ORACLE.mean + ORACLE.std * noise
    torch.testing.assert_close(integrate(as_flow(model), noise, GRID).x, endpoint, atol=1e-4, rtol=0)


def test_straighten_on_policy_starts_each_step_where_the_student_is():
    model, noise = as_model(ORACLE), ORACLE.noise(5)
    model.config = replace(model.config, grid=GRID)
    states = torch.stack([ORACLE.position(noise, t) for t in GRID.times], dim=1)
    seen = []
    model.register_forward_hook(lambda module, args, output: seen.append(args[0]))
    keys = randomness.keys_of(0, 0, 5)
    loss = Straighten().loss({"student": model}, {"states": states}, "student", 0.0, keys)
    assert len(seen) == GRID.steps
    second = noise + 0.2 * ORACLE.velocity(noise, torch.zeros(5))
    torch.testing.assert_close(seen[1], second)
    third = second + 0.3 * ORACLE.velocity(second, torch.full((5,), 0.2))
    errors = [
        ORACLE.velocity(x, torch.full((5,), t)) - (states[:, i + 1] - x) / (GRID.times[i + 1] - t)
        for i, (t, x) in enumerate(zip(GRID.times[:-1], (noise, second, third), strict=True))
    ]
    torch.testing.assert_close(loss, torch.stack(errors).square().mean(dim=(0, 2)))


@pytest.mark.parametrize("distance", ["l2", "huber", "huber_each"])
@pytest.mark.parametrize(("path", "prediction"), CONVENTIONS)
def test_flow_guided_has_no_loss_where_student_and_teacher_are_the_straight_flow(path, prediction, distance):
    oracle = Straight(ORACLE.mean, ORACLE.std)
    teacher, student = (as_model(oracle, path=path, prediction=prediction) for _ in range(2))
    grid = grids.uniform(1, start=as_flow(student).t_start)
    object.__setattr__(oracle, "t_start", grid.times[0])
    student.config = replace(student.config, grid=grid, trained_times="grid")
    method, keys = FlowGuided(distance=distance), randomness.keys_of(0, 0, 50)
    nets = {"student": student, "teacher": teacher}
    assert method.loss(nets, pairs(50), "student", 0.0, keys).max() < 1e-5


def test_flow_guided_hands_the_students_own_midpoint_to_the_teacher():
    seen, keys = [], randomness.keys_of(0, 0, 50)
    teacher, student, batch = as_model(ORACLE), Shifted(as_model(REFLOWED), 100), pairs(50)
    student.config = replace(student.config, grid=grids.uniform(1), trained_times="grid")
    student.shift.data += 0.3
    teacher.register_forward_hook(lambda module, args, output: seen.append((*args, output)))
    loss = FlowGuided(weight=2.0).loss({"student": student, "teacher": teacher}, batch, "student", 0.0, keys)
    ((x, t, velocity),) = seen
    assert t.min() >= 0.2
    assert t.max() <= 0.8
    fresh = randomness.noises("train.noise", keys, (2,)).double()
    own = ORACLE.mean + (ORACLE.std - 1) * fresh + 0.3
    torch.testing.assert_close(x, fresh + like(t, x) * own)
    missed = fresh + own - x - like(1 - t, x) * velocity
    torch.testing.assert_close(loss, 0.3**2 + 2 * missed.square().mean(dim=1))
    (gradient,) = torch.autograd.grad(loss.sum(), student.shift)
    torch.testing.assert_close(gradient[50:], 4 * missed.mean(dim=1))  # the target is taken as it is


def test_flow_guided_guides_the_teachers_step():
    """Its target is linear in the scale, so the loss is a square in it."""
    architecture = {"name": "mlp", "width": 8, "depth": 1}
    config = ModelConfig(
        architecture=architecture, shape=(2,), classes=2, guidable=True, grid=grids.uniform(1)
    )
    nets = {name: build(config, seed=seed).double() for seed, name in enumerate(("student", "teacher"))}
    for parameter in nets["teacher"].parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
    asked = (nets, pairs(50) | {"label": torch.arange(50) % 2}, "student", 0.0, randomness.keys_of(0, 0, 50))
    losses = torch.stack([FlowGuided(guidance=scale).loss(*asked) for scale in (0.0, 1.0, 2.0, 3.0)])
    assert losses.diff(n=2, dim=0).min() > 1e-6
    assert losses.diff(n=3, dim=0).abs().max() < 1e-9
    assert FlowGuided(guidance=2.0).trained()["baked_guidance"] == 2.0


def test_flow_guided_refuses_students_of_more_steps_and_teachers_of_a_grid():
    model = as_model(ORACLE)
    model.config = replace(model.config, grid=GRID)
    with pytest.raises(UserError, match="a student of one step, not of 3; set nfe to 1"):
        FlowGuided().networks(model, lambda name: model)
    model.config = replace(model.config, grid=grids.uniform(1), trained_times="grid")
    with pytest.raises(UserError, match="the teacher gives no velocity at all times"):
        FlowGuided().networks(model, lambda name: model)


class Phases(Gaussian):
    """The flow along the chords of the exact trajectories between some times."""

    edges = (0.0, 0.4, 1.0)

    def posterior(self, x, a, b):
        y, t = x / like(a + b, x), a / (a + b)
        edges = torch.tensor(self.edges, dtype=t.dtype)
        phase = (torch.searchsorted(edges, t + 1e-7, right=True) - 1).clamp(0, len(edges) - 2)
        first, last = (like(edges[phase + i], y) for i in (0, 1))
        size_first, size_last = (((1 - e) ** 2 + e**2 * self.std.to(y) ** 2).sqrt() for e in (first, last))
        turn = (size_last - size_first) / (last - first)
        noise = (y - like(t, y) * self.mean.to(y)) / (size_first + (like(t, y) - first) * turn)
        velocity = self.mean.to(y) + turn * noise
        return y + (1 - like(t, y)) * velocity, y - like(t, y) * velocity


@pytest.mark.parametrize("distance", ["l2", "huber_each"])
@pytest.mark.parametrize(("path", "prediction"), CONVENTIONS)
def test_phased_has_no_loss_on_the_chords_and_any_steps_end_on_the_data(path, prediction, distance):
    method, keys, noise = (
        Phased(steps_per_phase=2, distance=distance),
        randomness.keys_of(0, 0, 50),
        ORACLE.noise(50),
    )
    oracle = Phases(ORACLE.mean, ORACLE.std)
    model = as_model(oracle, path=path, prediction=prediction)
    grid = grids.Grid((as_flow(model).t_start, 0.1, 0.4, 0.7, 1.0))
    object.__setattr__(oracle, "edges", grid.times[::2])
    model.config = replace(model.config, grid=grid, trained_times="grid")
    batch = {"states": torch.stack([ORACLE.position(noise, t) for t in grid.times], dim=1)}
    exact = method.loss({"student": model}, batch, "student", 0.0, keys).max()
    off = Shifted(model, 50)
    off.shift.data += 0.1
    assert exact < 1e-6
    assert method.loss({"student": off}, batch, "student", 0.0, keys).max() > 100 * exact
    *_, (end, _) = walk(as_flow(model), batch["states"][:, 0], grid.times, "euler")
    torch.testing.assert_close(end, ORACLE.mean + ORACLE.std * noise, rtol=0, atol=1e-5)


def test_a_phases_chord_is_the_line_of_one_noise_direction_on_any_path():
    """x_s = a_s (x_m / a_m + (b_s / a_s - b_m / a_m) direction); Wang et al. 2024 (arXiv 2410.07303)."""
    seen = []
    model = as_model(REFLOWED, path="vp", prediction="noise")
    grid = grids.Grid((as_flow(model).t_start, 0.3, 1.0))
    model.config = replace(model.config, grid=grid, trained_times="grid")
    model.register_forward_hook(lambda module, args, output: seen.append(args))
    states = torch.stack([ORACLE.position(ORACLE.noise(50), t) for t in grid.times], dim=1)
    keys = randomness.keys_of(0, 0, 50)
    Phased().loss({"student": model}, {"states": states}, "student", 0.0, keys)
    ((x, t),) = seen
    path, edges = paths.get("vp"), torch.tensor(grid.times, dtype=torch.float64)
    at, c = path.coefficients(t), path.coefficients(path.time_of(edges))
    phase = (path.canonical_time(t) >= 0.3).long()
    own = states * like(c.a + c.b, states[0])  # on the model's path, (batch, 3, 2)
    each = torch.arange(50)
    scaled = [own[each, phase + i] / like(c.a[phase + i], x) for i in (0, 1)]
    ratio = [(c.b / c.a)[phase + i] for i in (0, 1)]
    direction = (scaled[1] - scaled[0]) / like(ratio[1] - ratio[0], x)
    expected = like(at.a, x) * (scaled[0] + like(at.b / at.a - ratio[0], x) * direction)
    torch.testing.assert_close(x, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("grid", "steps_per_phase"), [(GRID, 1), (grids.uniform(4), 2)])
def test_phased_clamps_the_last_step_alone(grid, steps_per_phase):
    model = as_model(REFLOWED)
    model.config = replace(model.config, grid=grid, trained_times="grid", in_range=True)
    states = torch.full((400, grid.steps + 1, 2), 5.0, dtype=torch.float64)
    loss = Phased(distance="l2", steps_per_phase=steps_per_phase).loss(
        {"student": model}, {"states": states}, "student", 0.0, randomness.keys_of(0, 0, 400)
    )
    at_end = loss < 1e-12  # clamped to 1, as the data is
    share = 1 / grid.steps  # phases are drawn evenly, and so are times in the last one
    assert float(at_end.double().mean()) == pytest.approx(share, abs=0.08)


def test_phased_refuses_steps_that_make_no_whole_phases():
    model = as_model(ORACLE)
    model.config = replace(model.config, grid=GRID)
    with pytest.raises(UserError, match="3 steps make no whole phases of 2 steps"):
        Phased(steps_per_phase=2).networks(model, lambda name: None)


def test_phased_refuses_a_flow_map_whose_steps_are_shorter_than_a_phase():
    model = as_flow_map(ORACLE, grid=grids.uniform(4))
    with pytest.raises(UserError, match="steps are shorter; set steps_per_phase to 1"):
        Phased(steps_per_phase=2).networks(model, lambda name: None)
    assert Phased().networks(model, lambda name: None).keys() == {"student"}


def test_straighten_names_the_number_of_timesteps():
    model = as_model(ORACLE)
    model.config = replace(model.config, grid=GRID)
    with pytest.raises(UserError, match="states at 3 timesteps, the student's grid has 4"):
        Straighten().loss({"student": model}, {"states": torch.zeros(2, 3, 2)}, "student", 0.0, None)
