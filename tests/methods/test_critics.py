"""What a critic sees, its logistic loss, and R1, by critics in closed form."""

import pytest
import torch
from torch import nn

from fewstep import grids, randomness
from fewstep.errors import UserError
from fewstep.methods import _critic
from fewstep.methods.dmd import Dmd
from fewstep.methods.sim import Sim
from fewstep.model import ModelConfig, build
from fewstep.settings import TrainSettings
from fewstep.training.networks import Training

KEYS = randomness.keys_of(0, 0, 4000)


class Plane(nn.Module):
    """A linear critic of points."""

    def __init__(self, *weights):
        super().__init__()
        self.weights = nn.Parameter(torch.tensor(weights))

    def forward(self, x):
        return x @ self.weights


def student():
    config = ModelConfig(
        architecture={"name": "mlp", "width": 8, "depth": 1}, shape=(2,), grid=grids.uniform(1)
    )
    return build(config, seed=0)


def test_the_logistic_loss_is_least_at_the_log_ratio_of_densities():
    ratio = torch.tensor([0.2, 1.0, 7.0], dtype=torch.float64)
    told = ratio.log().requires_grad_()
    loss = ratio * _critic.critic_logistic(told, torch.tensor(-torch.inf))
    loss = loss + _critic.critic_logistic(torch.tensor(torch.inf), told)
    (gradient,) = torch.autograd.grad(loss.sum(), told)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), atol=1e-12, rtol=0)


def test_the_slope_of_a_plane_is_its_gradient_in_the_mean():
    plane, x = Plane(2.0, -1.0), torch.zeros(len(KEYS), 2)
    found = _critic.slope(plane, x, KEYS)
    noise = randomness.noises("train.nudge", KEYS, (2,))
    torch.testing.assert_close(found, plane(noise).square(), rtol=1e-4, atol=1e-5)
    assert found.mean().item() == pytest.approx(5, rel=0.08)


def test_the_slope_does_not_depend_on_half_precision():
    network, x = _critic.critic((2,), normed=False), randomness.noises("x", KEYS, (2,))
    whole = _critic.slope(network, x, KEYS)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(_critic.slope(network, x, KEYS), whole)
        assert network(x).dtype == torch.bfloat16


@pytest.mark.parametrize("method_class", [Sim, Dmd])
def test_r1_adds_the_slope_at_real_samples_to_the_loss_of_the_critic_alone(method_class):
    options = {"gan_weight": 1.0, "blur": 0.0}
    plain, method = method_class(**options), method_class(**options, r1_weight=0.5)
    model = student()
    nets = {"student": model, "fake": student(), "teacher": student(), "critic": Plane(2.0, -1.0)}
    batch = {"data": randomness.noises("data", KEYS, (2,))}
    with_r1, without = (each.loss(nets, batch, "critic", 0.0, KEYS) for each in (method, plain))
    wanted = _critic.slope(nets["critic"], batch["data"], KEYS) / 2
    torch.testing.assert_close(with_r1 - without, wanted, rtol=1e-3, atol=1e-4)
    losses = (each.loss(nets, batch, "student", 0.0, KEYS) for each in (method, plain))
    assert torch.equal(*losses)


@pytest.mark.parametrize("method_class", [Sim, Dmd])
def test_a_critic_of_noised_samples_is_told_their_times_and_sees_what_the_scores_are_compared_at(
    method_class,
):
    method = method_class(gan_weight=1.0, critic_sees="noised", gan_loss="logistic", times=(0.2, 0.6))
    critic, samples = Plane(1.0, 10.0, 100.0), torch.ones(len(KEYS), 2)
    told = method.realness({"critic": critic}, samples, {}, KEYS)
    t, x = method.noised(samples, "compare", KEYS)
    torch.testing.assert_close(told, x[:, 0] + 10 * x[:, 1] + 100 * t)
    assert (t.min() > 0.2 - 1e-6, t.max() < 0.6 + 1e-6) == (True, True)
    seen = []
    critic.register_forward_hook(lambda module, args, output: seen.append(args[0]))
    nets, batch = {"student": student(), "critic": critic}, {"data": 5 * samples}
    found = method.loss(nets, batch, "critic", 0.0, KEYS)
    real, made = seen
    torch.testing.assert_close(found, _critic.critic_logistic(critic(real), critic(made)))
    noise = randomness.noises("train.real.noise", KEYS, (2,))
    torch.testing.assert_close(real[:, :2], real[:, 2:] * 5 + (1 - real[:, 2:]) * noise)
    last = method.loss(nets | {"fake": student(), "teacher": student()}, batch, "student", 0.0, KEYS)
    torch.testing.assert_close(last, _critic.STUDENT_LOSSES["logistic"](critic(made)) / 2)  # scores are equal


@pytest.mark.parametrize("shape", [(5,), (2, 3), (1, 8, 8)])
def test_times_are_a_further_channel_or_number(shape):
    x, t = torch.randn(3, *shape), torch.tensor([0.1, 0.5, 0.9])
    seen = _critic.with_time(x, t)
    assert seen.shape[1:] == _critic.shape_with_time(shape)
    assert _critic.critic(_critic.shape_with_time(shape), normed=False)(seen).shape == (3,)
    assert torch.equal(seen.flatten(1)[:, -1], t)


def test_only_the_critic_of_the_hinge_loss_is_normed():
    for loss, normed in (("hinge", True), ("logistic", False)):
        nets = Dmd(gan_weight=1.0, gan_loss=loss).networks(student(), lambda name: student())
        assert (
            any("parametrizations" in name for name, _ in nets["critic"].module.named_parameters()) == normed
        )


def test_a_training_with_all_of_it_stays_finite_and_leaves_other_networks_without_gradients():
    method = Dmd(
        gan_weight=1.0,
        gan_loss="logistic",
        critic_sees="noised",
        r1_weight=0.1,
        divergence="jensen_shannon",
        fake_warmup=0,
    )
    training = Training(
        method, student(), lambda name: student(), TrainSettings(steps=3), 0, torch.device("cpu")
    )
    keys = KEYS[:16]
    batch = {"data": randomness.noises("data", keys, (2,))}
    for _ in range(3):
        training.take_step(batch, keys)
    assert all(value == value for value in training.losses().values())
    before = {name: {id(p): p.grad for p in training.modules[name].parameters()} for name in training.modules}
    losses = method.loss(training.modules, batch, "student", 0.0, keys)
    losses.mean().backward()
    for name in ("critic", "fake", "teacher"):
        for parameter in training.modules[name].parameters():
            assert parameter.grad is before[name][id(parameter)]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"gan_loss": "hnge"}, "unknown gan_loss 'hnge'; did you mean 'hinge'"),
        ({"critic_sees": "noise"}, "unknown critic_sees 'noise'; did you mean 'noised'"),
        ({"r1_weight": -1}, "r1_weight must be a number from 0"),
    ],
)
def test_wrong_options_of_a_critic_are_named(options, told):
    with pytest.raises(UserError, match=told):
        Sim(**options)
