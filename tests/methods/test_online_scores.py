"""Sim and distribution against Gaussians, whose scores are known: gradients, fixed points, ends."""

import copy
from itertools import product

import numpy as np
import pytest
import torch
from oracles import as_model, gaussian
from torch import nn

from fewstep import grids, paths, predictions, randomness
from fewstep.methods.dmd import Dmd
from fewstep.methods.sim import Sim
from fewstep.model import Model, ModelConfig, build

KINDS = [Sim(), Sim(divergence="squared", alpha=1.0), Sim(divergence="squared"), Dmd(), Dmd(through="last")]
NAMES = ["huber", "squared", "squared with alpha", "dmd", "dmd through last"]
CONVENTIONS = list(product([*paths.PATHS, {"name": "linear", "gamma": 2.0}], predictions.PARTS))
MEAN, STD, SIGMA = 0.4, 0.8, 0.6  # of the generator, and of the noise added when data has scale 1
T = 1 / (1 + SIGMA)


class Affine(nn.Module):
    """One step from noise to mean + std noise."""

    def __init__(self, mean, std):
        super().__init__()
        self.mean, self.std = (nn.Parameter(torch.tensor([x], dtype=torch.float64)) for x in (mean, std))

    def forward(self, x, t):
        return self.mean + (self.std - 1) * x


def affine(mean=MEAN, std=STD):
    config = ModelConfig(architecture={"name": "affine"}, shape=(1,), grid=grids.uniform(1))
    return Model(config, Affine(mean, std))


def law_of(student):
    """The exact fake network of such a student."""
    return as_model(gaussian([student.network.mean.item()], [student.network.std.abs().item()]))


@pytest.fixture(scope="module")
def nodes():
    """Gauss-Hermite nodes over the noise of the generator and that added, each (n, 1), and weights (n,)."""
    x, w = (torch.from_numpy(part) for part in np.polynomial.hermite_e.hermegauss(80))
    z, added = torch.cartesian_prod(x, x).unbind(1)
    return z[:, None], added[:, None], torch.cartesian_prod(w, w).prod(dim=1) / (2 * np.pi)


def estimate(oracle, x, t):
    return oracle.posterior(x, torch.full((len(x),), t), torch.full((len(x),), 1 - t))[0]


def seen(nodes, mean, std, t=T):
    """Return the samples, and what the exact fake and a standard normal teacher see in them, noised."""
    z, added, _ = nodes
    samples = mean + std * z
    x = t * samples + (1 - t) * added
    return samples, estimate(gaussian([MEAN], [STD]), x, t), estimate(gaussian([0.0], [1.0]), x, t)


def parameters():
    return [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (MEAN, STD)]


def true_score_gradient(nodes, divergence, t_scale):
    """Return the gradient of E d(y), over samples that stay as they are; y moves with the generator's law."""
    z, added, weights = nodes
    mean, std = parameters()
    x = T * (MEAN + STD * z) + (1 - T) * added
    own = -(x - T * mean) / (T**2 * std**2 + (1 - T) ** 2)
    teacher = -x / (T**2 + (1 - T) ** 2)
    return torch.autograd.grad((weights * divergence(t_scale * (own - teacher))[:, 0]).sum(), (mean, std))


def test_squared_has_the_gradient_of_the_expected_square_without_knowing_how_the_score_moves(nodes):
    truth = true_score_gradient(nodes, torch.square, T)  # scores in units of data, x / T
    torch.testing.assert_close([float(g) for g in truth], [0.58824, -0.84706], atol=1e-5, rtol=0)
    mean, std = parameters()
    samples, fake, teacher = seen(nodes, mean, std)
    losses = Sim(divergence="squared", alpha=1.0).compare(
        torch.full((len(samples),), T), samples, fake, teacher
    )
    plain = losses * (samples - teacher).detach().abs()[:, 0]
    found = torch.autograd.grad((nodes[2] * plain).sum() * 2 / SIGMA**4, (mean, std))
    torch.testing.assert_close(found, truth)


def test_huber_has_the_gradient_of_the_expected_huber_distance(nodes):
    method = Sim(softness=0.5)
    truth = true_score_gradient(nodes, lambda y: (y.square() + 0.5**2).sqrt(), 1.0)
    mean, std = parameters()
    samples, fake, teacher = seen(nodes, mean, std)
    losses = method.compare(torch.full((len(samples),), T), samples, fake, teacher)
    found = torch.autograd.grad((nodes[2] * losses).sum() * T / (1 - T) ** 2, (mean, std))
    torch.testing.assert_close(found, truth, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("t", [0.2, 0.5, T, 0.8])
def test_distribution_has_the_gradient_of_the_divergence_but_for_its_normaliser(nodes, t):
    mean, std = parameters()
    variance, own = t**2 + (1 - t) ** 2, t**2 * std**2 + (1 - t) ** 2
    divergence = (own / variance + (t * mean) ** 2 / variance - 1 - (own / variance).log()) / 2
    truth = torch.autograd.grad(divergence, (mean, std))
    samples, fake, teacher = seen(nodes, mean, std, t)
    direction = (Dmd().gradient(samples, fake, teacher) * (samples - teacher).abs()).detach()
    scale = t**2 / (1 - t) ** 2  # from estimates of data to scores, and from the noised to the sample
    found = torch.autograd.grad((nodes[2][:, None] * direction * samples).sum() * scale, (mean, std))
    torch.testing.assert_close(found, truth, rtol=2e-6, atol=0)  # the normaliser is at least a little


@pytest.mark.parametrize("softness", [1e-6, 0.1])
def test_the_gradient_of_huber_is_at_most_one_for_each_sample(softness):
    draw = torch.Generator().manual_seed(0)
    samples, fake, teacher = (torch.randn(50, 7, generator=draw) * 10 for _ in "123")
    samples.requires_grad_()
    losses = Sim(softness=softness).compare(torch.rand(50, generator=draw), samples, fake, teacher)
    (direction,) = torch.autograd.grad(losses.sum() * 7, samples)
    assert direction.norm(dim=1).max() <= 1 + 1e-6
    assert direction.norm(dim=1).min() > 0.5


@pytest.mark.parametrize("method", KINDS, ids=NAMES)
def test_a_student_whose_score_is_the_teachers_stays(method):
    config = ModelConfig(
        architecture={"name": "mlp", "width": 8, "depth": 1}, shape=(2,), grid=grids.uniform(2)
    )
    student, teacher = build(config, seed=0), build(config, seed=1)
    for parameter in (*student.parameters(), *teacher.parameters()):
        parameter.data += 0.1
    nets = {name: net.module for name, net in method.networks(student, lambda name: teacher).items()}
    keys = randomness.keys_of(0, 0, 20)
    losses = method.loss(nets, {}, "student", 0.0, keys)
    losses.sum().backward()
    assert losses.abs().max() < 1e-9
    assert all(p.grad.abs().max() < 1e-6 for p in student.parameters())
    nets["fake"].network.last.bias.data += 0.1
    method.loss(nets, {}, "student", 0.0, keys).sum().backward()
    assert max(p.grad.abs().max() for p in student.parameters()) > 1e-3


@pytest.mark.parametrize("method", KINDS, ids=NAMES)
def test_a_linear_generator_ends_at_its_teacher(method):
    student, teacher = affine(), as_model(gaussian([0.0], [1.0]))
    optimiser = torch.optim.Adam(student.parameters(), lr=0.05)
    signs = []
    for step in range(150):
        optimiser.param_groups[0]["lr"] = 0.05 * (1 - step / 150)
        nets = {"student": student, "fake": law_of(student), "teacher": teacher}
        optimiser.zero_grad()
        keys = randomness.keys_of(0, 200 * step, 200 * step + 200)
        method.loss(nets, {}, "student", 0.0, keys).mean().backward()
        optimiser.step()
        signs.append((float(student.network.mean.grad) > 0, float(student.network.std.grad) > 0))
    assert signs[0] == (True, False)
    assert student.network.mean.item() == pytest.approx(0, abs=0.02)
    assert student.network.std.item() == pytest.approx(1, abs=0.02)


class Between(nn.Module):
    """The critic that knows both Gaussians: the logarithm of the ratio of their densities, real over made."""

    def __init__(self, student):
        super().__init__()
        self.law = [student.network.mean.item(), student.network.std.item()]

    def forward(self, x):
        real, made = torch.distributions.Normal(0.0, 1.0), torch.distributions.Normal(*self.law)
        return (real.log_prob(x) - made.log_prob(x))[:, 0]


def test_with_a_critic_the_student_ends_at_the_data_where_its_teacher_misses_it():
    ends = []
    for method in (Dmd(), Dmd(gan_weight=60.0, blur=0.0)):
        student, teacher = affine(), as_model(gaussian([0.3], [1.0]))  # real data has mean 0
        optimiser = torch.optim.Adam(student.parameters(), lr=0.05)
        for step in range(100):
            optimiser.param_groups[0]["lr"] = 0.05 * (1 - step / 100)
            nets = {"student": student, "fake": law_of(student), "teacher": teacher}
            optimiser.zero_grad()
            keys = randomness.keys_of(0, 200 * step, 200 * step + 200)
            method.loss(nets | {"critic": Between(student)}, {}, "student", 0.0, keys).mean().backward()
            optimiser.step()
        ends.append(student.network.mean.item())
    assert ends[0] == pytest.approx(0.3, abs=0.03)
    assert abs(ends[1]) < 0.1


@pytest.mark.parametrize("method", [Sim(), Dmd()], ids=["sim", "dmd"])
@pytest.mark.parametrize(("path", "prediction"), CONVENTIONS)
def test_teachers_of_any_path_and_prediction_pull_alike(method, path, prediction):
    teacher, student = gaussian([0.0], [1.0]), affine()
    keys, gradients = randomness.keys_of(0, 0, 20), []
    for convention in ({}, {"path": path, "prediction": prediction}):
        nets = {
            "student": student,
            "fake": as_model(gaussian([MEAN], [STD]), **convention),
            "teacher": as_model(teacher, **convention),
        }
        losses = method.loss(nets, {}, "student", 0.0, keys)
        gradients.append(torch.autograd.grad(losses.sum(), list(student.parameters())))
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-5)


def test_the_fake_network_learns_from_the_students_samples_alone():
    method, student, n = Sim(), affine(), 4000
    keys = randomness.keys_of(0, 0, n)
    fake = law_of(student)
    shift = torch.zeros(n, 1, dtype=torch.float64, requires_grad=True)
    fake.register_forward_hook(lambda module, args, output: output + shift)
    losses = method.loss({"student": student, "fake": fake}, {}, "fake", 0.0, keys)
    (gradient,) = torch.autograd.grad(losses.sum(), shift)
    assert abs(gradient.mean()) < 4 * gradient.std() / n**0.5  # it is right already
    assert not any(p.grad is not None for p in student.parameters())
    with torch.no_grad():
        student.network.mean += 1
    losses = method.loss({"student": student, "fake": fake}, {}, "fake", 0.0, keys)
    (gradient,) = torch.autograd.grad(losses.sum(), shift)
    assert gradient.mean() < -10 * gradient.std() / n**0.5


def test_the_teacher_is_guided_and_the_fake_network_is_not():
    config = ModelConfig(
        architecture={"name": "mlp", "width": 8, "depth": 1}, shape=(2,), classes=2, grid=grids.uniform(1)
    )
    teacher = build(config, seed=0)
    for parameter in teacher.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
    nets = {"fake": copy.deepcopy(teacher), "teacher": teacher}
    batch, keys = {"label": torch.tensor([0, 1, 1])}, randomness.keys_of(0, 0, 3)
    samples = torch.ones(3, 2)
    _, fake, plain = Sim().estimates(nets, samples, batch, keys)
    _, same, guided = Sim(guidance=2.0).estimates(nets, samples, batch, keys)
    assert torch.equal(fake, same)
    assert torch.equal(fake, plain)
    assert (guided - plain).abs().min() > 1e-4
