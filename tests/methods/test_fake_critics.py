"""The critic that is a head on the fake network: what it learns, which network learns when, and refusals."""

import pytest
import torch
from oracles import as_model, gaussian
from torch import nn
from torch.distributions import Normal
from torch.nn.functional import softplus

from fewstep import grids, randomness
from fewstep.errors import UserError
from fewstep.methods._fake_critic import WithHead
from fewstep.methods.anyflow import Anyflow
from fewstep.methods.dmd import Dmd
from fewstep.methods.sim import Sim
from fewstep.model import Model, ModelConfig, build
from fewstep.settings import TrainSettings
from fewstep.training.method import REAL
from fewstep.training.networks import Training

HEAD = {"gan_weight": 1.0, "gan_loss": "logistic", "critic_sees": "noised", "critic": "fake"}
KEYS = randomness.keys_of(0, 0, 64)
ARCHITECTURES = [
    ({"name": "mlp", "width": 16, "depth": 2}, (2,), "blocks.1", 16),
    ({"name": "mlp", "width": 16, "depth": 2}, (1, 4, 4), "blocks.1", 16),
    ({"name": "unet", "width": 8}, (1, 8, 8), "middle2", 16),
    ({"name": "dit", "width": 32, "depth": 4}, (1, 8, 8), "blocks.1", 32),
    ({"name": "adm"}, (3, 8, 8), "middle_block", 64),
]


def moved(model, seed=0):
    """Give a network, which starts at zero, some output."""
    draw = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=draw)
    return model


def mlp(seed=0, **changes):
    config = {"architecture": {"name": "mlp", "width": 16, "depth": 1}, "shape": (2,)}
    return moved(build(ModelConfig(**config | {"grid": grids.uniform(2)} | changes), seed=seed), seed)


def nets_of(method, teacher=None, **changes):
    nets = method.networks(mlp(**changes), lambda name: teacher or mlp(1, **changes))
    return {name: net.module for name, net in nets.items()}


def gradients(model):
    return {name: weight.grad for name, weight in model.named_parameters()}


class Affine(nn.Module):
    """One step from noise to mean + std noise, of one number."""

    def __init__(self, mean, std):
        super().__init__()
        self.mean, self.std = (nn.Parameter(torch.tensor([number])) for number in (mean, std))

    def forward(self, x, t):
        return self.mean + (self.std - 1) * x


MEAN, STD = 0.8, 0.6


def log_ratio(x, t):
    """That of noised data, N(0, 1), over noised samples, N(MEAN, STD)."""
    made = Normal(t * MEAN, ((t * STD) ** 2 + (1 - t) ** 2).sqrt())
    return Normal(torch.zeros(()), (t**2 + (1 - t) ** 2).sqrt()).log_prob(x) - made.log_prob(x)


def affine():
    return Model(
        ModelConfig(architecture={"name": "affine"}, shape=(1,), grid=grids.uniform(1)), Affine(MEAN, STD)
    )


def test_the_head_learns_the_log_ratio_of_two_gaussians_at_every_time():
    method = Dmd(times=(0.2, 0.8), critic_weight=1.0, **HEAD)
    one = ModelConfig(architecture={"name": "mlp", "width": 32, "depth": 1}, shape=(1,))
    torch.manual_seed(0)
    fake = WithHead(moved(build(one, seed=0)))
    nets, optimiser = {"student": affine(), "fake": fake}, torch.optim.Adam(fake.parameters(), lr=5e-3)
    for step in range(250):
        optimiser.param_groups[0]["lr"] = 5e-3 * (1 - step / 250)
        keys = randomness.keys_of(1, 256 * step, 256 * (step + 1))
        optimiser.zero_grad()
        batch = {"data": randomness.noises("real", keys, (1,))}
        method.loss(nets, batch, "fake", 0.0, keys).mean().backward()
        optimiser.step()
    t, x = torch.cartesian_prod(torch.tensor([0.3, 0.5, 0.7]), torch.linspace(-1, 1, 9)).unbind(1)
    with torch.no_grad():
        told = fake.logits_at(x[:, None], t, {})
    torch.testing.assert_close(told, log_ratio(x, t), atol=0.1, rtol=0.1)
    truth = as_model(gaussian([MEAN], [STD]))  # and it still learns the law of the samples
    with torch.no_grad():
        assert (fake(x[:, None], t) - truth(x[:, None], t)).square().mean().sqrt() < 0.15


class Knows(nn.Module):
    """A fake network whose head is exact."""

    config = ModelConfig(architecture={"name": "knows"}, shape=(1,))

    def logits_at(self, x, t, conditions):
        return log_ratio(x[:, 0], t)


@pytest.mark.parametrize("method_class", [Dmd, Sim])
def test_the_students_term_is_the_logistic_loss_where_scores_are_compared(method_class):
    method = method_class(**HEAD | {"gan_weight": 3.0})
    samples = randomness.noises("samples", KEYS, (1,)).requires_grad_()
    told = method.realness({"fake": Knows()}, samples, {}, KEYS)
    t, x = method.noised(samples, "compare", KEYS)
    torch.testing.assert_close(told, log_ratio(x[:, 0], t))
    student, teacher = mlp(), mlp(1)
    torch.manual_seed(0)
    nets = {"student": student, "teacher": teacher, "fake": WithHead(mlp(2))}
    plain = method_class()
    with_, without = (each.loss(nets, {}, "student", 0.0, KEYS) for each in (method, plain))
    noise = student.noise.draw("train.noise", KEYS, (2,))
    made = method.own_samples(student, noise, {}, KEYS)
    wanted = 3 / 2 * softplus(-method.realness(nets, made, {}, KEYS))
    torch.testing.assert_close(with_ - without, wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("method_class", [Dmd, Sim])
def test_the_fake_network_and_its_head_learn_in_one_update_and_stay_in_the_students(method_class):
    method = method_class(fake_warmup=0, **HEAD)
    assert method.updates(9) == ("fake", "student")
    training = Training(method, mlp(), lambda name: mlp(1), TrainSettings(steps=9), 0, torch.device("cpu"))
    assert set(training.trainees) == {"student", "fake"}
    batch, fake = {"data": randomness.noises("data", KEYS, (2,))}, training.modules["fake"]
    for name, trainee in training.trainees.items():
        trainee.unlock(name == "student")
    losses = method.loss(training.modules, batch, "student", 0.0, KEYS)
    losses.mean().backward()
    assert all(gradient is None for gradient in gradients(fake).values())
    assert all(gradient is None for gradient in gradients(training.modules["teacher"]).values())
    assert all(gradient is not None for gradient in gradients(training.modules["student"]).values())
    before = {name: weight.clone() for name, weight in fake.state_dict().items()}
    training.take_step(batch, KEYS)
    changed = {name for name, weight in fake.state_dict().items() if not torch.equal(weight, before[name])}
    assert {"head.last.weight", "network.first.weight"} <= changed


def test_the_weight_of_the_critic_is_that_in_the_fake_networks_loss():
    off, once, twice = (Dmd(**HEAD, critic_weight=weight) for weight in (0.0, 1.0, 2.0))
    nets, batch = nets_of(once), {"data": randomness.noises("data", KEYS, (2,))}
    losses = [each.loss(nets, batch, "fake", 0.0, KEYS) for each in (off, once, twice)]
    torch.testing.assert_close(losses[2] - losses[1], losses[1] - losses[0])
    assert (losses[1] - losses[0]).min() > 0
    assert torch.equal(losses[0], Dmd().loss(nets, batch, "fake", 0.0, KEYS))
    with_r1 = Dmd(**HEAD, critic_weight=1.0, r1_weight=1.0).loss(nets, batch, "fake", 0.0, KEYS)
    assert (with_r1 > losses[1]).all()


def test_real_samples_are_told_with_their_own_conditions():
    method, told = Dmd(**HEAD), []
    nets = nets_of(method, classes=3)
    nets["fake"].network.register_forward_pre_hook(
        lambda network, args, given: told.append(given["label"]), with_kwargs=True
    )
    own, others = KEYS[:, 1] % 3, (KEYS[:, 1] + 1) % 3
    data = randomness.noises("data", KEYS, (2,))
    samples, both = torch.zeros_like(data), {f"{REAL}data": data, f"{REAL}label": others}
    method.discriminator_loss(nets, samples, {"label": own, "data": samples} | both, KEYS)
    assert torch.equal(told[0], others)
    assert torch.equal(told[1], own)


@pytest.mark.parametrize(("architecture", "shape", "place", "features"), ARCHITECTURES)
@pytest.mark.parametrize("classes", [0, 3])
def test_every_network_gives_features_from_its_middle_and_predicts_as_before(
    architecture, shape, place, features, classes
):
    model = moved(build(ModelConfig(architecture=architecture, shape=shape, classes=classes), seed=0))
    headed = WithHead(model)
    assert (headed.place, headed.head.places[0].normalized_shape) == (place, (features,))
    x, t = torch.randn(3, *shape, requires_grad=True), torch.tensor([0.2, 0.5, 0.9])
    conditions = {"label": torch.tensor([0, 1, 2])} if classes else {}
    assert torch.equal(headed(x, t, **conditions), model(x, t, **conditions))
    told = headed.logits_at(x, t, conditions)
    assert told.shape == (3,)
    torch.testing.assert_close(
        headed.logits_at(x[:2], t[:2], {n: c[:2] for n, c in conditions.items()}), told[:2]
    )
    told.sum().backward()
    assert x.grad.abs().flatten(1).sum(dim=1).min() > 0
    assert not torch.equal(headed.logits_at(x, t / 2, conditions), told)


@pytest.mark.parametrize(("path", "prediction"), [("vp", "noise"), ("edm", "data"), ("linear", "velocity")])
def test_the_head_of_a_model_of_any_path_sees_what_the_model_would(path, prediction):
    headed, seen = WithHead(mlp(path=path, prediction=prediction)), []
    headed.network.register_forward_pre_hook(lambda network, given: seen.append(given))
    x, t = torch.randn(5, 2), torch.linspace(0.2, 0.8, 5)
    headed.logits_at(x, t, {})
    (head_saw,) = seen
    method = Dmd(**HEAD)
    method.estimate(headed, x, t, {})
    for one, other in zip(head_saw, seen[1], strict=True):
        assert torch.equal(one, other)


def test_a_head_lies_on_the_device_of_its_model():
    headed = WithHead(mlp(classes=3).to("meta"))
    assert {weight.device.type for weight in headed.parameters()} == {"meta"}


class Silent(nn.Module):
    """A network that says nothing of its features."""

    def forward(self, x, t):
        return x


def test_a_network_without_known_features_is_refused_before_it_trains():
    config = ModelConfig(architecture={"name": "silent"}, shape=(2,))
    with pytest.raises(UserError, match="silent does not say where they are; give its class an attribute"):
        nets_of(Dmd(**HEAD), teacher=Model(config, Silent()))
    wrong = Silent()
    wrong.features_at = "body.middle"
    with pytest.raises(
        UserError, match=r"says that they are at 'body\.middle', which is none; .* or set critic"
    ):
        nets_of(Dmd(**HEAD), teacher=Model(config, wrong))


@pytest.mark.parametrize("method_class", [Dmd, Sim, Anyflow])
@pytest.mark.parametrize("lacks", [{"gan_weight": 0.0}, {"gan_loss": "hinge"}, {"critic_sees": "blurred"}])
def test_a_head_without_what_it_is_trained_with_is_refused(method_class, lacks):
    with pytest.raises(
        UserError, match="critic fake is a head on a network of noised samples; set a gan_wei"
    ):
        method_class(**HEAD | lacks)
    with pytest.raises(UserError, match="unknown critic 'fakes'; did you mean 'fake'"):
        method_class(critic="fakes")
    with pytest.raises(UserError, match="critic_weight must be a number from 0"):
        method_class(critic_weight=-1)
