"""What all on-policy methods share: samples with gradients, the regression, the critic, refusals."""

import pytest
import torch
from oracles import as_model, gaussian
from torch import nn

from fewstep import grids, randomness
from fewstep.errors import UserError
from fewstep.flow import as_flow
from fewstep.methods._critic import critic
from fewstep.methods.adversarial import Adversarial
from fewstep.methods.anyflow import Anyflow
from fewstep.methods.dmd import Dmd
from fewstep.methods.endpoint import Endpoint
from fewstep.methods.sim import Sim
from fewstep.model import Model, ModelConfig, build
from fewstep.settings import TrainSettings
from fewstep.solvers import integrate
from fewstep.training.networks import Training

ON_POLICY_METHODS = [Sim, Dmd, Adversarial]
KEYS = randomness.keys_of(3, 0, 6)


FLOW_MAP = {"name": "mlp", "width": 8, "depth": 1, "second_time": True}


def student(**changes):
    config = {
        "architecture": {"name": "mlp", "width": 8, "depth": 1},
        "shape": (2,),
        "grid": grids.uniform(3),
    }
    model = build(ModelConfig(**config | changes), seed=0)
    for parameter in model.parameters():
        parameter.data += 0.1
    return model


def pairs():
    noise = randomness.noises("pairs", KEYS, (2,))
    return {"noise": noise, "data": 1 + noise / 2}


def nets_of(method, model, teacher=None):
    return {k: net.module for k, net in method.networks(model, lambda name: teacher or student()).items()}


@pytest.mark.parametrize(
    "grid", [grids.uniform(1), grids.Grid((0.0, 0.2, 0.7, 1.0)), grids.Grid((0.1, 0.5, 1.0))]
)
def test_samples_are_those_of_the_sampler_bit_for_bit(grid):
    method, model, batch = Adversarial(weight=0.0), student(grid=grid).eval(), pairs()
    made = integrate(as_flow(model), batch["noise"], grid).x.detach()
    losses = method.loss(nets_of(method, model), batch | {"data": made}, "student", 0.0, KEYS)
    assert not losses.any()


class Slope(nn.Module):
    """The field v = a x."""

    def __init__(self):
        super().__init__()
        self.a = nn.Parameter(torch.tensor(0.7))

    def forward(self, x, t):
        return self.a * x


def test_the_gradient_goes_through_every_step():
    config = ModelConfig(architecture={"name": "slope"}, shape=(1,), grid=grids.uniform(2))
    model, method = Model(config, Slope()), Adversarial(weight=0.0)
    noise, data = torch.tensor([[1.5], [-0.4]]), torch.tensor([[2.0], [3.0]])
    nets = nets_of(method, model)
    losses = method.loss(nets, {"noise": noise, "data": data}, "student", 0.0, KEYS[:2])
    (found,) = torch.autograd.grad(losses.sum(), model.network.a)
    made = noise * (1 + 0.7 / 2) ** 2
    torch.testing.assert_close(found, (2 * (made - data) * noise * (1 + 0.7 / 2)).sum())


def test_dmd_through_last_is_the_sampler_up_to_a_random_timestep_and_learns_one_call():
    config = ModelConfig(architecture={"name": "slope"}, shape=(1,), grid=grids.uniform(2))
    model, keys = Model(config, Slope()), randomness.keys_of(0, 0, 400)
    noise = torch.linspace(-2, 2, 400)[:, None] + 0.001
    samples = Dmd(through="last").own_samples(model, noise, {}, keys)
    middle = noise * (1 + 0.7 / 2)
    from_start, from_middle = noise * 1.7, middle * (1 + 0.7 / 2)  # the last step of the grid, as it is
    first = (samples - from_start).abs() < 1e-5
    assert 0.4 < float(first.double().mean()) < 0.6
    torch.testing.assert_close(samples, torch.where(first, from_start, from_middle))
    torch.testing.assert_close(from_middle, integrate(as_flow(model), noise, config.grid).x)
    (found,) = torch.autograd.grad(samples.sum(), model.network.a)
    torch.testing.assert_close(found, torch.where(first, noise, middle / 2).sum())  # none through `middle`


def test_dmd_through_last_calls_the_student_once_a_step():
    calls = []
    config = ModelConfig(architecture={"name": "slope"}, shape=(1,), grid=grids.uniform(3))
    model = Model(config, Slope())
    model.network.register_forward_hook(lambda *_: calls.append(1))
    Dmd(through="last").own_samples(model, torch.ones(6, 1), {}, KEYS)
    assert len(calls) == 3  # two steps without gradients, and the jump


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"through": "lst"}, "unknown through 'lst'; did you mean 'last'"),
        ({"through": "last", "regression_weight": 1.0}, "and `through: last` makes none; set"),
    ],
)
def test_wrong_values_of_through_are_refused(options, told):
    with pytest.raises(UserError, match=told):
        Dmd(**options)


def test_with_one_step_and_no_critic_the_loss_is_that_of_endpoint():
    method, model, batch = Adversarial(weight=0.0), student(grid=grids.uniform(1)), pairs()
    found, wanted = (
        each.loss(nets_of(each, model), batch, "student", 0.0, KEYS) for each in (method, Endpoint())
    )
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("method_class", [Sim, Dmd])
def test_without_regression_no_data_is_needed_and_with_it_the_loss_is_the_regression(method_class):
    assert (method_class().needs.stream, method_class(regression_weight=2.0).needs.stream) == (
        "noise",
        "pairs",
    )
    model, batch = student(), pairs()
    nets = nets_of(method_class(), model)
    free, given = (method_class().loss(nets, b, "student", 0.0, KEYS) for b in ({}, batch))
    assert torch.equal(free, given)  # the loss does not depend on the batch
    made = integrate(as_flow(model), batch["noise"], model.config.grid).x
    # the fake network is the teacher still, so the regression alone is left
    held = method_class(regression_weight=2.0).loss(nets, batch, "student", 0.0, KEYS)
    torch.testing.assert_close(held, 2 * (made - batch["data"]).square().mean(dim=1), atol=1e-6, rtol=1e-5)


class Sum(nn.Module):
    def forward(self, x):
        return x.sum(dim=1)


def test_critic_and_student_have_the_hinge_losses():
    method, model = Adversarial(blur=0.0, weight=0.5, regression_weight=0.0), student(grid=grids.uniform(1))
    batch = pairs()
    made = integrate(as_flow(model), batch["noise"], model.config.grid).x
    nets = {"student": model, "critic": Sum()}
    real, fake = batch["data"].sum(dim=1), made.sum(dim=1)
    found = method.loss(nets, batch, "critic", 0.0, KEYS)
    torch.testing.assert_close(found, (1 - real).clamp(min=0) + (1 + fake).clamp(min=0))
    torch.testing.assert_close(method.loss(nets, batch, "student", 0.0, KEYS), -fake / 2)


def test_blur_adds_noise_to_what_the_critic_is_given():
    model, batch = student(), pairs()
    nets = {"student": model, "critic": Sum()}
    clear, blurred = (
        Adversarial(blur=blur, weight=1.0, regression_weight=0.0).loss(nets, batch, "student", 0.0, KEYS)
        for blur in (0.0, 0.1)
    )
    assert 0.02 < (blurred - clear).std() < 0.5


@pytest.mark.parametrize("shape", [(5,), (1, 8, 8), (3, 3, 5)])
def test_critics_give_one_number_a_sample_and_are_not_steep(shape):
    torch.manual_seed(0)
    network = critic(shape).eval()
    x, y = torch.randn(2, 50, *shape)
    assert network(x).shape == (50,)
    steepness = (network(x) - network(y)).abs() / (x - y).flatten(1).norm(dim=1)
    assert 0 < steepness.max() < 1.05


@pytest.mark.parametrize("method_class", [Sim, Dmd])
def test_a_gan_weight_adds_a_critic_of_samples_against_real_data(method_class):
    plain, method = method_class(), method_class(gan_weight=0.5, blur=0.0, fake_rate=3.0)
    assert (plain.needs.data, method.needs.data, method.needs.stream) == (False, True, "noise")
    assert (plain.updates(99), method.updates(99)) == (("fake", "student"), ("fake", "critic", "student"))
    model, teacher = student(grid=grids.uniform(1)), student(grid=grids.uniform(1), trained_times="all")
    assert method.networks(model, lambda name: teacher)["critic"].learning_rate == 3.0
    nets, batch = nets_of(plain, model, teacher) | {"critic": Sum()}, {"data": pairs()["data"]}
    noise = randomness.noises("train.noise", KEYS, (2,))
    made = integrate(as_flow(model), noise, model.config.grid).x
    found = method.loss(nets, batch, "critic", 0.0, KEYS)
    torch.testing.assert_close(found, (1 - batch["data"].sum(dim=1)).relu() + (1 + made.sum(dim=1)).relu())
    with_and_without = (each.loss(nets, batch, "student", 0.0, KEYS) for each in (method, plain))
    torch.testing.assert_close(torch.sub(*with_and_without), -0.5 / 2 * made.sum(dim=1))


def test_the_seed_decides_how_new_networks_start():
    first, again, other = (
        Training(
            Adversarial(), student(), {}.get, TrainSettings(steps=1), seed, torch.device("cpu")
        ).tensors()
        for seed in (1, 1, 2)
    )
    name = "critic/network/1.parametrizations.weight.original"
    assert torch.equal(first[name], again[name])
    assert not torch.equal(first[name], other[name])


@pytest.mark.parametrize("method_class", [Sim, Dmd])
def test_the_fake_network_has_its_warmup_and_its_learning_rate(method_class):
    method = method_class(fake_warmup=2, fake_rate=4.0)
    assert method.updates(1) == ("fake", "fake", "fake", "student")
    assert method.updates(2) == ("fake", "student")
    nets = method.networks(student(), lambda name: student())
    assert (nets["fake"].learning_rate, nets["fake"].trains, nets["teacher"].trains) == (4.0, True, False)
    assert nets["fake"].module is not nets["teacher"].module


@pytest.mark.parametrize("method_class", [Sim, Dmd, Anyflow])
def test_the_fake_network_may_learn_several_times_a_step(method_class):
    method = method_class(fake_warmup=2, fake_updates=5)
    assert method.updates(1) == method.updates(2) == ("fake",) * 5 + ("student",)
    assert method_class(fake_warmup=2, fake_updates=2).updates(1) == ("fake",) * 3 + ("student",)
    assert method_class(fake_updates=2, gan_weight=1.0).updates(99) == ("fake", "fake", "critic", "student")


@pytest.mark.parametrize(
    ("law", "quantile"),
    [("uniform", lambda u: u), ("logit_normal", lambda u: (1 + (-torch.special.ndtri(u)).exp()) ** -1)],
)
def test_times_of_comparison_have_their_law_within_their_range(law, quantile):
    keys = randomness.keys_of(0, 0, 4000)
    samples = torch.zeros(4000, 1, dtype=torch.float64)
    method = Dmd(compare_times=law, times=(0.1, 0.8))
    for stream in ("compare", "real"):
        t, _ = method.noised(samples, stream, keys)
        places = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
        off = t.sort().values - (0.1 + 0.7 * quantile(places))
        assert off.abs().max() < 0.03
    later, _ = method.noised(samples, "guide", keys, after=torch.full((4000,), 0.5, dtype=torch.float64))
    assert later.mean() == pytest.approx(0.65, abs=0.01)
    assert later.std() == pytest.approx(0.3 / 12**0.5, abs=0.005)  # uniform, whatever the law


def test_no_on_policy_method_preserves_the_map():
    assert all(not method_class().trained()["map_preserving"] for method_class in ON_POLICY_METHODS)
    assert Endpoint().trained()["map_preserving"]


def test_jitter_is_0_after_on_policy_training():
    assert all(method_class().trained()["jitter"] == 0 for method_class in ON_POLICY_METHODS)


@pytest.mark.parametrize("method_class", ON_POLICY_METHODS)
@pytest.mark.parametrize("network", ["student", "other"])
def test_regression_without_pairs_is_refused(method_class, network):
    method = method_class(regression_weight=1.0)
    nets = nets_of(method, student())
    with pytest.raises(UserError, match=r"learns from pairs of noise and data, and the batch has data"):
        method.loss(nets, {"data": pairs()["data"]}, network, 0.0, KEYS)


@pytest.mark.parametrize("method_class", ON_POLICY_METHODS)
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"grid": None}, "the student has no grid"),
        ({"prediction": "noise"}, r"the grid starts at 0\.0, before this model can, at 0\.001"),
        ({"prediction": "data", "grid": grids.Grid((0.0, 0.9995, 1.0))}, r"last step starts at 0\.9995"),
    ],
)
def test_students_that_cannot_be_sampled_are_refused(method_class, changes, message):
    with pytest.raises(UserError, match=message):
        method_class().networks(student(**changes), lambda name: student())


@pytest.mark.parametrize("method_class", [Sim, Dmd])
@pytest.mark.parametrize(
    ("options", "changes", "message"),
    [
        ({}, {"shape": (3,)}, r"same kind of samples, but shape differs: \(2,\) and \(3,\); take"),
        ({}, {"classes": 2}, "same kind of samples, but classes differ: 0 and 2"),
        ({}, {"trained_times": "grid"}, "trained only at the timesteps of its grid"),
        ({}, {"architecture": FLOW_MAP}, "is a flow map, or jumps to data, and was not taught a score"),
        ({}, {"trained_times": "until_1", "grid": grids.uniform(1)}, "is a flow map, or jumps to data"),
        ({"times": (0, 0.9)}, {"prediction": "noise"}, r"predicts noise on path linear.*no score at t = 0;"),
        ({"times": (0.1, 0.9995)}, {"prediction": "data"}, r"at t = 0\.9995; set times within \[0, 0\.999\]"),
        ({"times": (0.01, 0.9)}, {"path": "ve"}, r"path ve, which gives no score at t = 0\.01"),
        ({"guidance": 2.0}, {}, r"guidance 2\.0 needs a class-conditional model"),
        ({"guidance": float("nan")}, {}, "guidance must be a finite number, got nan; 1 is none"),
    ],
)
def test_teachers_without_a_score_to_compare_with_are_refused(method_class, options, changes, message):
    with pytest.raises(UserError, match=message):
        method_class(**options).networks(student(), lambda name: student(**changes))


def test_wrong_options_are_named():
    for wrong in (
        {"regression_weight": -1},
        {"times": (0.5, 0.2)},
        {"times": (0, 1)},
        {"fake_warmup": -1},
        {"fake_updates": 0},
        {"fake_rate": 0},
        {"fake_rate": float("nan")},
        {"gan_weight": -1},
        {"blur": float("nan")},
    ):
        with pytest.raises(UserError, match=next(iter(wrong))):
            Dmd(**wrong)
    with pytest.raises(UserError, match="unknown time law 'logit_norml'; did you mean 'logit_normal'"):
        Dmd(compare_times="logit_norml")
    with pytest.raises(UserError, match="divergence 'hubr'; did you mean 'huber'"):
        Sim(divergence="hubr")
    for name, value in (("softness", 0), ("softness", float("nan")), ("alpha", float("nan"))):
        with pytest.raises(UserError, match=name):
            Sim(**{name: value})
    for name in ("weight", "blur", "critic_rate"):
        with pytest.raises(UserError, match=name):
            Adversarial(**{name: -0.1})


def test_a_gaussian_teacher_is_fine():
    model = as_model(gaussian([0.0, 0.0], [1.0, 1.0]))
    assert "fake" in Sim().networks(student(), lambda name: model)
