"""The check of what a model is declared to be, on small networks that were trained here for a moment."""

from dataclasses import replace

import pytest
import torch

from fewstep import declaration, paths, predictions, randomness
from fewstep.model import Model, ModelConfig, build

LINEAR = {"name": "table"}
SCALED = {"name": "table", "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
EDM = {"name": "edm", "sigma_data": 1.0}
RIGHT = {
    "flow": {"path": "linear", "prediction": "reverse_velocity", "time": "1-t", "time_scale": 1.0},
    "noise": {"path": SCALED, "prediction": "noise", "time": "1-t", "time_scale": 1.0},
    "v": {"path": LINEAR, "prediction": "v", "time": "1-t", "time_scale": 1.0},
    "edm": {"path": EDM, "prediction": "reverse_v", "time": "log_sigma", "time_scale": 0.25},
}


@pytest.fixture(scope="module")
def data():
    """Pictures (n, 1, 4, 4) near one of six, each half black and half white: far from a Gaussian."""
    draw = torch.Generator().manual_seed(0)
    six = torch.stack([torch.randperm(16, generator=draw) % 2 for _ in range(6)]) * 1.6 - 0.8
    chosen = six[torch.randint(6, (2048,), generator=draw)]
    return (chosen + 0.1 * torch.randn(chosen.shape, generator=draw)).reshape(-1, 1, 4, 4)


def train(said, data, steps=250):
    """Train by plain regression at canonical times spread evenly."""
    architecture = {"name": "mlp", "width": 64, "depth": 2}
    model = build(ModelConfig(architecture=architecture, shape=(1, 4, 4), **said), seed=0)
    optimiser = torch.optim.Adam(model.parameters(), 5e-3)
    draw, path = torch.Generator().manual_seed(0), paths.get(model.config.path)
    for _ in range(steps):
        chosen = data[torch.randint(len(data), (128,), generator=draw)]
        t = path.time_of(0.1 + 0.8 * torch.rand(len(chosen), generator=draw).double())
        c = path.coefficients(t).to(chosen)
        noise = torch.randn(chosen.shape, generator=draw)
        x = paths.like(c.a, chosen) * chosen + paths.like(c.b, chosen) * noise
        wanted = predictions.express(said["prediction"], chosen, noise, c)
        loss = (model(x, t.float()) - wanted).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model.eval()


@pytest.fixture(scope="module")
def trained(data):
    return {name: train(said, data[:-128]) for name, said in RIGHT.items()}


def verdict(model, data, **changed):
    other = Model(replace(model.config, **changed), model.network)
    return declaration.check(other, data[-128:], {}, seed=0)


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_declaration_passes(trained, data, name):
    found = verdict(trained[name], data)
    assert found.problems == ()
    assert found.ratio < 0.95


@pytest.mark.parametrize(
    ("name", "wrong", "likelier"),
    [
        ("flow", {"prediction": "velocity"}, "prediction: reverse_velocity"),
        ("flow", {"prediction": "noise"}, "prediction: reverse_velocity"),
        ("flow", {"time": "t"}, "time: 1-t"),
        ("flow", {"time_scale": 1000.0}, "time_scale: 1"),
        ("flow", {"path": "cosine"}, "path: linear"),
        ("flow", {"path": LINEAR}, "path: linear"),
        ("flow", {"path": "vp"}, "path: linear"),
        ("flow", {"prediction": "data"}, "prediction: reverse_velocity"),
        ("flow", {"prediction": "v"}, "prediction: reverse_velocity"),
        ("flow", {"time": "sigma"}, "time: 1-t"),
        ("noise", {"prediction": "v"}, "prediction: noise"),
        ("noise", {"prediction": "data"}, "prediction: noise"),
        ("noise", {"time": "t"}, "time: 1-t"),
        ("noise", {"path": "linear"}, ""),
        ("noise", {"path": LINEAR}, "beta_schedule: scaled_linear"),
        ("noise", {"prediction": "velocity"}, "prediction: noise"),
        ("noise", {"prediction": "score"}, "prediction: noise"),
        ("noise", {"time_scale": 999.0}, "time_scale: 1"),
        ("v", {"prediction": "noise"}, "prediction: v"),
        ("v", {"time_scale": 999.0}, "time_scale: 1"),
        ("v", {"prediction": "reverse_v"}, "prediction: v"),
        ("v", {"prediction": "data"}, "prediction: v"),
        ("v", {"time": "t"}, "time: 1-t"),
        ("edm", {"prediction": "v"}, "prediction: reverse_v"),
        ("edm", {"prediction": "noise"}, "prediction: reverse_v"),
        ("edm", {"time_scale": 1.0}, "time_scale: 0.25"),
        ("edm", {"path": "ve"}, ""),
        ("edm", {"prediction": "data"}, "prediction: reverse_v"),
        ("edm", {"time": "sigma"}, "time: log_sigma"),
        ("edm", {"time": "1-t", "time_scale": 1.0}, "time: log_sigma"),
        ("edm", {"path": {"name": "edm"}}, "sigma_data: 1"),
    ],
)
def test_a_wrong_declaration_is_reported_with_the_likelier_one(trained, data, name, wrong, likelier):
    (problem,) = verdict(trained[name], data, **wrong).problems
    assert likelier in problem


@pytest.mark.parametrize(
    ("change", "likelier"),
    [
        (lambda data: (data + 1) / 2, "data in [-1, 1] where it is in [0, 1]"),
        (lambda data: data * 0.18215, "data divided by 0.18215"),
    ],
    ids=["range", "latent scale"],
)
def test_wrong_data_is_reported(trained, data, change, likelier):
    (problem,) = verdict(trained["flow"], change(data)).problems
    assert likelier in problem


def test_the_channels_in_reverse_order_are_reported():
    """The exact flow of a Gaussian whose channels differ in mean and spread."""
    mean, std = torch.tensor([0.8, 0.0, -0.8]), torch.tensor([0.1, 0.4, 0.7])

    class Exact(torch.nn.Module):
        def forward(self, x, t):
            t = t[:, None, None, None]
            of_mean, of_std = mean[:, None, None].to(x), std[:, None, None].to(x)
            spread = (1 - t) ** 2 + (t * of_std) ** 2
            return of_mean + (t * of_std**2 - (1 - t)) / spread * (x - t * of_mean)

    config = ModelConfig(architecture={}, shape=(3, 4, 4))
    draw = torch.Generator().manual_seed(0)
    data = mean[:, None, None] + std[:, None, None] * torch.randn(128, 3, 4, 4, generator=draw)
    right = declaration.check(Model(config, Exact()), data, {}, seed=0)
    assert right.ratio == pytest.approx(1, abs=0.05)  # no model is better than the fit where that is true
    (problem,) = declaration.check(Model(config, Exact()), data.flip(1), {}, seed=0).problems
    assert "the channels in reverse order" in problem


@pytest.mark.parametrize("said", RIGHT.values(), ids=RIGHT)
def test_a_model_and_data_on_another_device_are_compared_there(said):
    """The device meta has no values, but refuses to be mixed with the CPU, as a GPU does."""
    config = ModelConfig(architecture={"name": "mlp", "width": 8, "depth": 1}, shape=(1, 4, 4), **said)
    model, data = build(config, seed=0).to("meta"), torch.empty(6, 1, 4, 4, device="meta")
    asked = declaration.Answers(model, data, {}, randomness.keys_of(0, 0, 6))
    assert asked.ratios(declaration.Declaration(**said)).device.type == "meta"
