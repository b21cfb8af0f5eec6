"""Phased from data: phases that the teacher solves in training teach what its stored trajectories do."""

import math
from dataclasses import replace

import pytest
import torch
from flow_maps import mixture_map
from oracles import Gaussian, as_model, mixture
from test_fixed_points import ORACLE, Phases, Shifted

from fewstep import grids, randomness
from fewstep.errors import UserError
from fewstep.methods import _spans
from fewstep.methods.phased import Phased
from fewstep.model import ModelConfig, build
from fewstep.paths import like
from fewstep.training.timesteps import draw_timesteps

N = 200
KEYS = randomness.keys_of(0, 0, N)


class Solved(Phases):
    """The flow along the chords from each edge to where equal Euler steps of the exact flow lead from it."""

    steps = 3

    def posterior(self, x, a, b):
        y, t = x / like(a + b, x), like(a / (a + b), x)
        edges = torch.tensor(self.edges, dtype=x.dtype)
        phase = (torch.searchsorted(edges, t[:, 0] + 1e-7, right=True) - 1).clamp(0, len(edges) - 2)
        first, last = (like(edges[phase + i], y) for i in (0, 1))
        gain, step = torch.ones_like(y), (last - first) / self.steps
        for at in (first + i * step for i in range(self.steps)):
            gain = gain * (1 + step * (at * self.std**2 - (1 - at)) / ((1 - at) ** 2 + at**2 * self.std**2))
        turn = (gain - 1) / (last - first)
        start = (y - t * self.mean) / (1 + (t - first) * turn)
        velocity = self.mean + turn * start
        return y + (1 - t) * velocity, y - t * velocity


def student_of(kind, grid, edges=None, **convention):
    """Return a model of an oracle that follows chords between the timesteps of a grid, or some of them."""
    oracle = kind(ORACLE.mean, ORACLE.std)
    object.__setattr__(oracle, "edges", edges or grid.times)
    model = as_model(oracle, **convention)
    model.config = replace(model.config, grid=grid, trained_times="grid")
    return model


def loss(method, student, data, keys=KEYS, teacher=None, **conditions):
    nets = {"student": student, "teacher": teacher or as_model(ORACLE)}
    return method.loss(nets, {"data": data, **conditions}, "student", 0.0, keys)


@pytest.mark.parametrize("compare", ["end", "velocity"])
@pytest.mark.parametrize("path", ["linear", "vp", "cosine"])
def test_the_chords_to_the_ends_of_the_teachers_steps_have_no_loss(path, compare):
    grid = grids.Grid((0.002, 0.1, 0.4, 0.7, 1.0))
    student = student_of(Solved, grid, grid.times[::2], path=path, prediction="v")
    method = Phased(learn_from="data", teacher_steps=3, steps_per_phase=2, distance="l2", compare=compare)
    data = ORACLE.sample(N)
    exact = loss(method, student, data)
    assert exact.max() < 1e-20
    wrong = Shifted(student, N)
    wrong.shift.data += 0.1
    assert loss(method, wrong, data).mean() > 1e-5
    assert loss(replace(method, teacher_steps=4), student, data).mean() > 1e-6


def test_more_steps_of_the_teacher_approach_the_fixed_point_of_exact_trajectories():
    grid = grids.Grid((0.0, 0.3, 1.0))
    student, data = student_of(Phases, grid), ORACLE.sample(N)
    states = torch.stack([ORACLE.position(ORACLE.noise(N), t) for t in grid.times], dim=1)
    stored = Phased(distance="l2").loss({"student": student}, {"states": states}, "student", 0.0, KEYS)
    assert stored.max() < 1e-28
    few, some, many = (
        loss(Phased(learn_from="data", teacher_steps=steps, distance="l2"), student, data).mean()
        for steps in (10, 40, 160)
    )
    assert some < few / 12  # the square of an error of first order in the length of a step
    assert many < some / 12
    assert many < 1e-5


class Zero(torch.nn.Module):
    """A student without any idea."""

    def forward(self, x, t):
        return torch.zeros_like(x)


def test_on_a_mixture_any_students_mean_loss_is_that_of_exact_trajectories():
    """States of noised data have the law of those that the flow takes noise to."""
    oracle = mixture([0.3, 0.7], [[-1.5], [1.0]], [0.4, 0.6])
    n, grid = 20_000, grids.Grid((0.0, 0.4, 0.7, 1.0))
    keys = randomness.keys_of(0, 0, n)
    student = as_model(oracle)
    student.config = replace(student.config, grid=grid, trained_times="grid")
    noise = oracle.noise(n)
    begun = torch.zeros(n, dtype=torch.float64)
    later = [mixture_map(oracle, noise, begun, torch.full_like(begun, t)) for t in grid.times[1:]]
    for network in (student.network, Zero()):
        student.network = network
        batch = {"states": torch.stack([noise, *later], dim=1)}
        stored = Phased(distance="l2").loss({"student": student}, batch, "student", 0.0, keys)
        method = Phased(learn_from="data", teacher_steps=80, distance="l2")
        online = loss(method, student, oracle.sample(n), keys, teacher=as_model(oracle))
        error = math.sqrt(float(stored.var() + online.var()) / n)
        assert float(online.mean()) == pytest.approx(float(stored.mean()), abs=4 * error)
        assert 4 * error < 0.15 * stored.mean()


def test_phases_start_in_data_with_fresh_noise(monkeypatch):
    grid, data = grids.Grid((0.0, 0.3, 1.0)), ORACLE.sample(N)
    student = student_of(Phases, grid)
    seen = []
    student.register_forward_hook(lambda module, args, output: seen.append(args))
    drawn = randomness.uniforms
    monkeypatch.setattr(
        randomness,
        "uniforms",
        lambda stream, keys: torch.zeros(N) if "phase" in stream else drawn(stream, keys),
    )
    loss(Phased(learn_from="data"), student, data)
    ((x, t),) = seen
    noise = _spans.fresh_noise(student.noise, data, KEYS)
    edges = torch.tensor(grid.times, dtype=torch.float64)[draw_timesteps(2, KEYS)]
    torch.testing.assert_close(t, edges)
    torch.testing.assert_close(x, _spans.on_chord(noise, data, edges))


def test_the_teachers_steps_are_guided():
    """One step's end is linear in the scale, so the loss is a square in it."""
    config = ModelConfig(
        architecture={"name": "mlp", "width": 8, "depth": 1},
        shape=(2,),
        classes=2,
        guidable=True,
        grid=grids.uniform(2),
    )
    student, teacher = (build(config, seed=seed).double() for seed in (0, 1))
    for parameter in teacher.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
    asked = {"teacher": teacher, "label": torch.arange(N) % 2}
    methods = [
        Phased(learn_from="data", guidance=scale, teacher_steps=1, distance="l2") for scale in range(4)
    ]
    losses = torch.stack([loss(method, student, ORACLE.sample(N), **asked) for method in methods])
    assert losses.diff(n=2, dim=0).max() > 1e-6
    assert losses.diff(n=3, dim=0).abs().max() < 1e-12
    assert [method.trained()["baked_guidance"] for method in methods] == [0, 1, 2, 3]
    assert "baked_guidance" not in Phased().trained()  # stored trajectories say it themselves


def test_a_teacher_is_asked_for_and_refused_where_it_can_not_teach():
    teacher = as_model(ORACLE)
    student = student_of(Phases, grids.uniform(2))
    method = Phased(learn_from="data")
    assert method.networks(student, lambda name: teacher)["teacher"].trains is False
    assert "teacher" not in Phased().networks(student, lambda name: None)
    with pytest.raises(UserError, match="the teacher gives no velocity at all times"):
        method.networks(student, lambda name: student)
    with pytest.raises(UserError, match="must make the same kind of samples"):
        method.networks(student, lambda name: as_model(Gaussian(torch.zeros(3), torch.ones(3))))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learn_from": "pairs"}, "unknown source 'pairs'"),
        ({"learn_from": "data", "teacher_steps": 0}, "teacher_steps must be 1 or more, got 0"),
        (
            {"teacher_steps": 3},
            "teacher_steps 3 are of a teacher that is asked in training, and trajectories",
        ),
        ({"guidance": 3.0}, "trajectories have that of their search; set guidance to 1, or learn_from to"),
    ],
)
def test_options_that_can_not_be_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        Phased(**options)
