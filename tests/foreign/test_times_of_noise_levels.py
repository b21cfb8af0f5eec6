"""Networks that are given noise levels, fast features of them too, get a second time and slow times."""

import copy
from dataclasses import replace

import pytest
import torch
from foreign import tiny_networks
from foreign.adopted import EDM

from fewstep import grids, randomness
from fewstep.checkpoint import load_model, save_model
from fewstep.derivatives import along_flow
from fewstep.errors import UserError
from fewstep.flow import as_flow, usable_times
from fewstep.methods.consistency import Consistency
from fewstep.methods.flow_map import FlowMap
from fewstep.methods.meanflow import Meanflow
from fewstep.model import Model, ModelConfig, build
from fewstep.networks.embedding import Timed
from fewstep.settings import TrainSettings
from fewstep.timing import with_second_time, with_slow_times
from fewstep.training.networks import Training

VE = {"path": "ve", "prediction": "score", "time": "sigma"}
CONFIG = {"time_embedding_type": "fourier"}


def ncsn():
    """Return a network of Song et al. 2021 in the library's form, which divides its output by the level."""
    network = tiny_networks.awake(tiny_networks.unet(**CONFIG))
    config = {k: v for k, v in dict(network.config).items() if not k.startswith("_")}
    architecture = {"name": "diffusers", "network": "UNet2DModel", "config": config}
    model = build(ModelConfig(architecture=architecture, shape=tiny_networks.SHAPE, **VE), seed=0)
    model.network.network.load_state_dict(network.state_dict())
    return model.eval()


def mlp():
    """Return a network with features of up to 1000 radians per unit of what it is given."""
    model = build(ModelConfig(architecture={"name": "mlp", "width": 32}, shape=(4,), **EDM), seed=0)
    return tiny_networks.awake(model).eval()


MODELS = {"fourier": ncsn, "mlp": mlp}


def asked(model, count=40):
    """Return u(x, t, until), states, times and ends of steps, all well inside the usable times."""
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(count, *model.config.shape, generator=generator)
    t = 0.15 + 0.4 * torch.rand(count, generator=generator)
    return as_flow(model), x, t, t + 0.3


def smoothed(model):
    """Have a network look at slow waves alone, as trained ones nearly do."""
    (part,) = (part for part in model.network.modules() if isinstance(part, Timed))
    levels = torch.linspace(-1, 1, 2000) if model.config.time == "log_sigma" else torch.logspace(-2, 2, 2000)
    with torch.no_grad():  # both go over about one unit of the path's time
        turns = 2000 * part.waves(levels).diff(dim=0).abs().mean(dim=0)
        part.time_layers()[0].weight[:, turns > 60] = 0
    return model


def moved(model):
    return tiny_networks.awake(copy.deepcopy(model))


@pytest.mark.parametrize("name", MODELS)
def test_a_second_time_changes_nothing_at_first_and_then_matters_where_a_step_has_a_length(name, tmp_path):
    torch.manual_seed(1)
    model = MODELS[name]()
    wider = with_second_time(model, seed=3)
    (plain, x, t, until), (u, *_) = asked(model), asked(wider)
    with torch.no_grad():
        torch.testing.assert_close(u(x, t, until=until), plain(x, t))
        torch.testing.assert_close(u(x, t), plain(x, t))
        wider = moved(wider)
        u = asked(wider)[0]
        torch.testing.assert_close(u(x, t, until=t), u(x, t))
        assert not torch.allclose(u(x, t, until=until), u(x, t), atol=1e-3)
        ends = usable_times(model.config.path, model.config.prediction)
        assert u(x, torch.full_like(t, ends[0]), until=torch.ones_like(t)).isfinite().all()
        save_model(tmp_path, wider)
        assert torch.equal(asked(load_model(tmp_path))[0](x, t, until=until), u(x, t, until=until))


@pytest.mark.parametrize("name", MODELS)
def test_slow_times_give_nearly_the_same_velocity_and_derivatives_that_differences_find(name):
    torch.manual_seed(1)
    model = smoothed(moved(with_second_time(MODELS[name](), seed=3)))
    slower = with_slow_times(model, seed=1)
    (plain, x, t, until), (u, *_) = asked(model), asked(slower)
    with torch.no_grad():
        wanted = plain(x, t, until=t)
        assert (u(x, t, until=t) - wanted).square().mean() < 0.05 * wanted.var()
    velocity = torch.randn(x.shape, generator=torch.Generator().manual_seed(6))
    found = along_flow(lambda x, t, until: u(x, t, until=until), x, t, until, velocity)
    fine, step = as_flow(slower.double()), 1e-5  # networks of the library have no forward mode
    x, t, until, velocity = (tensor.double() for tensor in (x, t, until, velocity))
    with torch.no_grad():
        low, high = (fine(x + h * velocity, t + h, until=until) for h in (-step, step))
    exact = (high - low) / (2 * step)
    assert (found - exact).square().mean() < 0.01 * exact.square().mean()


@pytest.mark.parametrize("name", MODELS)
def test_slow_waves_turn_as_those_of_a_time_do_in_the_middle(name):
    torch.manual_seed(1)
    slower = with_slow_times(MODELS[name](), seed=1)
    (part,) = (part.double() for part in slower.network.modules() if isinstance(part, Timed))
    t = 0.5 + torch.tensor([-1e-4, 1e-4], dtype=torch.float64)
    level = (1 - t) / t
    given = level if name == "fourier" else 0.25 * level.log()
    slow, fast = ((high - low).norm() / 2e-4 for low, high in (part.waves(given), part.fast_waves(given)))
    fastest = ((part.waves(given)[1] - part.waves(given)[0]).view(2, -1).norm(dim=0) / 2e-4).max()
    assert 20 < fastest < 130
    assert fast > 5 * slow


@pytest.mark.parametrize("method", [FlowMap(), Meanflow(), Consistency(kind="continuous")])
@pytest.mark.parametrize("name", MODELS)
def test_a_student_is_trained_by_methods_that_differentiate_by_the_time_too(name, method):
    torch.manual_seed(1)
    teacher = MODELS[name]()
    student = copy.deepcopy(teacher)
    if method.needs.second_time:
        student = with_second_time(student, seed=0)
    if method.needs.slow_times:
        student = with_slow_times(student, seed=0)
    if method.trained_times == "until_1":
        config = teacher.config
        start = usable_times(config.path, config.prediction)[0]
        student = Model(replace(student.config, grid=grids.uniform(1, start=start)), student.network)
    before = copy.deepcopy(student.state_dict())
    keys, shape = randomness.keys_of(0, 0, 6), teacher.config.shape
    data, noise = (randomness.noises(of, keys, shape) for of in ("data", "noise"))
    times = torch.linspace(usable_times(teacher.config.path, teacher.config.prediction)[0], 1, 5)
    states = torch.lerp(noise[:, None], data[:, None], times.reshape(1, -1, *[1] * len(shape)))
    batch = {"data": data, "noise": noise, "states": states, "times": times.expand(6, -1)}
    settings = TrainSettings(steps=2, batch=6, learning_rate=1e-2, warmup=0)
    training = Training(method, student, lambda _: teacher, settings, 0, torch.device("cpu"))
    for _ in range(2):
        training.take_step(batch, keys)
    assert training.skipped() == 0
    after = training.modules["student"].state_dict()
    assert all(weight.isfinite().all() for weight in after.values())
    assert any(not torch.equal(after[key], before[key]) for key in before)


def test_fast_features_of_sigma_itself_are_refused():
    given = EDM | {"time": "sigma", "time_scale": 1.0}
    fast = build(ModelConfig(architecture={"name": "mlp"}, shape=(2,), **given), seed=0)
    with pytest.raises(UserError, match="or the logarithm of a noise level; this one is given 1 sigma: take"):
        with_slow_times(fast, seed=0)
