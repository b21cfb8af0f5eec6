"""Networks of others that get a second time, or slow ones, and are trained as students of any steps."""

import copy
from itertools import pairwise, product

import pytest
import torch
from foreign.adopted import BETAS, EDM, NETWORKS, SAMPLES, adopted, flow_of, moved
from own_code import checkout_with

from fewstep import grids, randomness
from fewstep.checkpoint import load_model, save_model
from fewstep.derivatives import STEP, along_flow
from fewstep.errors import UserError
from fewstep.flow import as_flow
from fewstep.foreign import schedulers
from fewstep.lazy import lazy_imports
from fewstep.methods.consistency import Consistency
from fewstep.methods.flow_map import FlowMap
from fewstep.methods.meanflow import Meanflow
from fewstep.model import Model, ModelConfig, build
from fewstep.networks.embedding import Timed
from fewstep.settings import TrainSettings
from fewstep.solvers import integrate
from fewstep.timing import with_second_time, with_slow_times
from fewstep.training.engine import Engine
from fewstep.training.networks import Training

with lazy_imports():  # takes seconds, also of the processes that run other tests
    import diffusers


def timed(model):
    return [part for part in model.network.modules() if isinstance(part, Timed)]


@torch.no_grad()
def smoothed(model):
    """Have a network look at waves of at most 50 radians over its times alone, as trained ones nearly do."""
    scale = model.config.time_scale
    t = torch.linspace(0, scale, 500)
    for part in timed(model):
        rate = 1000 * (part.waves(t + scale / 1000) - part.waves(t)).abs().amax(dim=0)
        part.time_layers()[0].weight[:, rate > 50] = 0
    return model


@pytest.mark.parametrize("declared", [{}, BETAS], ids=["flow", "betas"])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_second_time_changes_nothing_at_first_and_then_matters_where_a_step_has_a_length(name, declared):
    model = adopted(name, **declared)
    wider = with_second_time(model, seed=3)
    (plain, x, t, until), (u, *_) = flow_of(model), flow_of(wider)
    with torch.no_grad():
        assert torch.equal(u(x, t, until), plain(x, t))
        assert torch.equal(u(x, t), plain(x, t))
        moved(wider)
        assert torch.equal(u(x, t, t), u(x, t))
        assert not torch.allclose(u(x, t, until), u(x, t), atol=1e-4)
    with pytest.raises(UserError, match="network without a second time"):
        model.network(x, t, until=until)


@pytest.mark.parametrize("name", NETWORKS)
def test_slow_times_give_nearly_the_same_velocity_and_derivatives_that_differences_find(name):
    model = smoothed(with_second_time(adopted(name), seed=3))
    slower = with_slow_times(model, seed=1)
    (plain, x, t, until), (u, *_) = flow_of(model), flow_of(slower)
    with torch.no_grad():
        assert (u(x, t) - plain(x, t)).square().mean() < 0.05 * plain(x, t).var()
    velocity = torch.randn(x.shape, generator=torch.Generator().manual_seed(6))
    inside = (t > STEP) & (t + STEP < until)
    found = along_flow(u, x, t, until, velocity)[inside]
    if name == "UNet2DModel":  # torch has no forward mode for a norm of what its attention makes
        with pytest.raises(UserError, match=r"this network has no exact derivative .*; set exact to false"):
            along_flow(u, x, t, until, velocity, exact=True)
    else:
        exact = along_flow(u, x, t, until, velocity, exact=True)[inside]
        assert (found - exact).square().mean() < 0.01 * exact.square().mean()


def test_a_second_time_is_the_same_whatever_times_are_multiplied_by():
    spans = []
    for scale in (1.0, 1000.0):
        model = build(ModelConfig(**DIT, time_scale=scale), seed=0)
        wider = moved(with_second_time(model, seed=0))
        t, until = torch.tensor([0.0, 0.2, 0.5]) * scale, torch.tensor([1.0, 0.9, 0.5]) * scale
        spans.append(wider.network.until(t, until))
    torch.testing.assert_close(*spans)


DIT = {"architecture": {"name": "dit", "width": 16, "depth": 1}, "shape": (1, 4, 4)}


@pytest.mark.parametrize("name", ["dit", "adm"])
def test_own_networks_at_times_up_to_1000_get_slow_ones(name):
    config = ModelConfig(
        architecture={"name": name, "width": 32}, shape=(1, 8, 8), time="1-t", time_scale=1000.0
    )
    model = smoothed(moved(build(config, seed=0)))
    (old,), (new,) = timed(model), timed(with_slow_times(model, seed=1))
    t = torch.linspace(0, 1000, 500)
    with torch.no_grad():
        before, after = (part.time_layers()(part.waves(t)) for part in (old, new))
        assert (after - before).square().mean() < 0.05 * before.var(dim=0).mean()
        old_rate, new_rate = ((part.waves(t + 0.1) - part.waves(t)).abs().max() for part in (old, new))
    assert 0.009 < new_rate < 0.0101  # up to 100 radians per unit of the path's time, which 0.1 is 1e-4 of
    assert old_rate > 5 * new_rate


@torch.no_grad()
def test_the_flow_map_scheduler_of_the_library_takes_the_same_steps():
    model = moved(with_second_time(adopted("UNet2DModel"), seed=3))
    scheduler = diffusers.FlowMapEulerDiscreteScheduler()
    said = {name: getattr(model.config, name) for name in ("prediction", "path", "time", "time_scale")}
    assert schedulers.declared({"_class_name": type(scheduler).__name__, **scheduler.config}) == said
    grid = grids.Grid((0.0, 0.1, 0.35, 1.0))
    x, label = torch.randn(SAMPLES, *model.config.shape), torch.arange(SAMPLES) % 5
    found = integrate(as_flow(model), x, grid, label=label).x
    scheduler.set_timesteps(sigmas=[1 - t for t in grid.times[:-1]])
    for t, end in pairwise([*scheduler.timesteps, torch.tensor(0.0)]):
        times = {"t": t.expand(SAMPLES).float(), "until": end.expand(SAMPLES).float()}
        output = model.network(x, **times, label=label)
        x = scheduler.step(output, t, x, r_timestep=end, return_dict=False)[0]
    torch.testing.assert_close(found, x)


METHODS = {
    "flow_map": FlowMap(),
    "meanflow": Meanflow(),
    "meanflow, exact": Meanflow(exact=True),
    "consistency": Consistency(kind="continuous"),
}


WITHOUT_FORWARD = ("UNet2DModel", "meanflow, exact")


def batch_of(model):
    keys = randomness.keys_of(0, 0, SAMPLES)
    data, noise = (randomness.noises(name, keys, model.config.shape) for name in ("data", "noise"))
    times = torch.linspace(0, 1, 5).expand(SAMPLES, -1)
    states = torch.lerp(noise[:, None], data[:, None], times[..., None, None, None])
    batch = {"data": data, "noise": noise, "states": states, "times": times}
    return batch | {"label": torch.arange(SAMPLES) % 5}, keys


def started(method, name, **declared) -> tuple[Model, Model]:
    """Return a teacher, and the student that the method trains."""
    teacher = adopted(name, guidable=True, grid=grids.uniform(1), **declared)
    student = copy.deepcopy(teacher)
    if method.needs.second_time:
        student = with_second_time(student, seed=0)
    return teacher, with_slow_times(student, seed=0) if method.needs.slow_times else student


CASES = [
    *((name, method, {}) for name, method in product(["DiTTransformer2DModel", "UNet2DModel"], METHODS)),
    *(("UNet2DModel", method, EDM) for method in ("flow_map", "meanflow", "consistency")),
]


@pytest.mark.parametrize(
    ("name", "method", "declared"), [case for case in CASES if case[:2] != WITHOUT_FORWARD]
)
def test_a_student_of_any_steps_is_trained_and_comes_back_from_its_directory(
    name, method, declared, tmp_path
):
    teacher, student = started(METHODS[method], name, **declared)
    before = {key: weight.clone() for key, weight in student.state_dict().items()}
    settings = TrainSettings(steps=2, batch=SAMPLES, learning_rate=1e-2, warmup=0)
    training = Training(METHODS[method], student, lambda _: teacher, settings, 0, torch.device("cpu"))
    for _ in range(2):
        training.take_step(*batch_of(student))
    assert training.skipped() == 0
    after = training.modules["student"]
    added = [key for key in before if ".until." in key]
    assert bool(added) == METHODS[method].needs.second_time
    assert all(not torch.equal(after.state_dict()[key], before[key]) for key in added if "weight" in key)

    save_model(tmp_path, after)
    again = load_model(tmp_path)
    (u, x, t, until), (v, *_) = flow_of(after), flow_of(again)
    until = until if METHODS[method].needs.second_time else None
    with torch.no_grad():
        assert torch.equal(u(x, t, until), v(x, t, until))


@pytest.mark.parametrize("name", ["DiTTransformer2DModel", "UNet2DModel", "UNet2DConditionModel"])
def test_blocks_that_are_computed_again_see_the_times_of_their_own_call(name):
    model = moved(with_second_time(adopted(name), seed=3)).requires_grad_(True)

    def gradients(network):
        u, x, t, until = flow_of(network)
        (u(x, t, until) + u(x, t, 0.5 * (t + until))).square().sum().backward()
        return [weight.grad for weight in network.parameters()]

    again = copy.deepcopy(model)
    Engine(recompute=True).prepare(again)
    for one, other in zip(gradients(model), gradients(again), strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other)


def test_a_network_that_is_given_noise_levels_gets_the_span_of_its_path_beside_them():
    model = adopted("UNet2DModel", **EDM)
    wider = with_second_time(model, seed=3)
    (plain, x, t, until), (u, *_) = flow_of(model), flow_of(wider)
    with torch.no_grad():
        assert torch.equal(u(x, t, until), plain(x, t))
        moved(wider)
        assert torch.equal(u(x, t, t), u(x, t))
        ends = [u(x, t, torch.full_like(t, end)) for end in (0.9, 0.99, 1.0)]
    assert all(end.isfinite().all() for end in ends)  # the data's own level would be minus infinity
    for one, other in pairwise(ends):
        assert not torch.allclose(one, other, atol=1e-4)


def test_the_span_in_noise_levels_is_that_of_the_same_times_without():
    """Spans are told apart as well: what embeds them has the same range."""
    spans = []
    for given in ({"time": "t"}, {"time": "log_sigma", "time_scale": 0.25}):
        model = moved(with_second_time(build(ModelConfig(**DIT, path="edm", **given), seed=0), seed=0))
        seen = []
        model.network.until.register_forward_hook(
            lambda _, times, embedding, seen=seen: seen.append(embedding)
        )
        model(torch.zeros(3, 1, 4, 4), torch.tensor([0.0, 0.2, 0.5]), until=torch.tensor([1.0, 0.9, 0.5]))
        spans += seen
    torch.testing.assert_close(*spans)


def test_networks_whose_times_can_not_be_two_are_refused():
    given = r"for networks that are given the time of their path, and this one is given 0\.25 log_sigma"
    with pytest.raises(UserError, match=f"split_after is {given}: set it to null"):
        with_second_time(build(ModelConfig(**DIT, **EDM), seed=0), seed=0, split_after=1)
    model = adopted("UNet2DModel")
    learned = {"time_embedding_type": "learned", "num_train_timesteps": 9}
    config = model.config.architecture["config"] | learned
    architecture = {**model.config.architecture, "config": config, "second_time": True}
    with pytest.raises(UserError, match="UNet2DModel with this config embeds its time in a way"):
        build(ModelConfig(architecture=architecture, shape=model.config.shape, classes=5), seed=0)


CODE = """
import torch

class Net(torch.nn.Module):
    def __init__(self, second_time=False):
        super().__init__()
        self.last = torch.nn.Linear(2, 2)
        if second_time:
            self.of_span = torch.nn.Parameter(torch.zeros(2))

    def forward(self, x, t, until=None):
        if until is None:
            return self.last(x)
        return self.last(x) + (until - t)[:, None] * self.of_span

class Plain(torch.nn.Linear):
    def __init__(self):
        super().__init__(2, 2)
"""


def test_a_network_of_your_own_is_given_both_noise_levels(tmp_path, monkeypatch):
    checkout_with(tmp_path, monkeypatch, "levels", CODE)
    architecture = {"name": "imported", "network": "nets.levels:Net", "second_time": True}
    model = build(ModelConfig(architecture=architecture, shape=(2,), path="ve", time="log_sigma"), seed=0)
    given = []
    model.network.network.register_forward_pre_hook(
        lambda _, args, kwargs: given.append((args[1], kwargs["until"])), with_kwargs=True
    )
    t, until = torch.tensor([0.2]), torch.tensor([0.7])
    model(torch.zeros(1, 2), t, until=until)
    model(torch.zeros(1, 2), until, until=until)
    (_, of_until), (level, _) = given
    torch.testing.assert_close(of_until, level)


def test_a_network_of_your_own_makes_its_second_time_itself(tmp_path, monkeypatch):
    checkout_with(tmp_path, monkeypatch, "two", CODE)

    def named(name, **options):
        architecture = {"name": "imported", "network": f"nets.two:{name}", **options}
        return build(ModelConfig(architecture=architecture, shape=(2,)), seed=0)

    model = named("Net")
    wider = with_second_time(model, seed=0)
    (plain, x, t, until), (u, *_) = flow_of(model), flow_of(wider)
    assert torch.equal(u(x, t, until), plain(x, t))
    moved(wider)
    assert not torch.equal(u(x, t, until), u(x, t))
    with pytest.raises(UserError, match=r"network nets\.two:Plain: .*second_time"):
        with_second_time(named("Plain"), seed=0)
    with pytest.raises(UserError, match="the adapter edm gives a network no until; take x_t or t_x"):
        with_second_time(named("Net", adapter="edm"), seed=0)
