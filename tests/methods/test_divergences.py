"""Weights of f-divergences against quadrature, and the effect of guidance at times of its own."""

import pytest
import torch
from torch import nn

from fewstep import grids, randomness
from fewstep.errors import UserError
from fewstep.methods._distribution_matching import RATIOS, WEIGHTS
from fewstep.methods.anyflow import Anyflow
from fewstep.methods.dmd import Dmd
from fewstep.model import Model, ModelConfig, build

DIVERGENCES = {  # f with f''(1) = 1; the divergence is the mean of f(r) under the student
    "reverse_kl": lambda r: -r.log(),
    "forward_kl": lambda r: r * r.log(),
    "jeffreys": lambda r: (r - 1) * r.log() / 2,
    "jensen_shannon": lambda r: 2 * (r * r.log() - (r + 1) * ((r + 1) / 2).log()),
    "hellinger": lambda r: 4 * (1 - r.sqrt()),
    "softened_reverse_kl": lambda r: 2 * (r + 1) * ((r + 1) / (2 * r)).log(),
    "neyman": lambda r: (1 / r - 1) / 2,
}
TOLD = {"gan_weight": 1.0, "gan_loss": "logistic", "critic_sees": "noised"}
KEYS = randomness.keys_of(0, 0, 8)


def test_every_divergence_is_tested():
    assert WEIGHTS.keys() == DIVERGENCES.keys()


@pytest.mark.parametrize("name", list(DIVERGENCES))
def test_the_weighted_difference_of_scores_is_the_gradient_of_the_divergence(name):
    """Between Gaussians on a line, the teacher's standard normal."""
    mean, std = (torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (0.4, 0.8))
    x = torch.linspace(-9, 9, 20001, dtype=torch.float64)
    teacher, own = torch.distributions.Normal(0.0, 1.0), torch.distributions.Normal(mean, std)
    ratio = (teacher.log_prob(x) - own.log_prob(x)).exp()
    divergence = torch.trapezoid(own.log_prob(x).exp() * DIVERGENCES[name](ratio), x)
    truth = torch.stack(torch.autograd.grad(divergence, (mean, std), retain_graph=True))
    with torch.no_grad():
        density, scores = own.log_prob(x).exp(), -(x - mean) / std**2 + x
        moved = torch.stack([torch.ones_like(x), (x - mean) / std])  # a sample, by mean and std
        found = torch.trapezoid(density * WEIGHTS[name](ratio) * scores * moved, x)
        weight = torch.trapezoid(density * WEIGHTS[name](ratio), x)
    torch.testing.assert_close(found, truth, rtol=1e-9, atol=1e-9)
    assert WEIGHTS[name](torch.ones(())) == 1
    if name in ("reverse_kl", "forward_kl", "jeffreys"):  # whose mean weight is 1 for any student
        assert float(weight) == pytest.approx(1, abs=1e-9)


class Tells(nn.Module):
    """A critic of points that are told with their times."""

    def forward(self, seen):
        return 3 * seen[:, 0] - seen[:, -1]


def mlp(seed=0, **changes):
    config = ModelConfig(
        architecture={"name": "mlp", "width": 8, "depth": 1}, shape=(2,), grid=grids.uniform(4)
    )
    model = build(ModelConfig(**{**vars(config), **changes}), seed=seed)
    draw = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=draw)
    return model


@pytest.mark.parametrize("name", list(DIVERGENCES))
def test_the_gradient_of_each_sample_is_weighted_by_the_ratio_that_the_critic_tells(name):
    nets = {"student": mlp(), "fake": mlp(1), "teacher": mlp(2), "critic": Tells()}
    samples = 2 * randomness.noises("samples", KEYS, (2,))
    plain, method = Dmd(**TOLD), Dmd(divergence=name, **TOLD)
    _, fake, teacher = plain.estimates(nets, samples, {}, KEYS)
    t, x = plain.noised(samples, "compare", KEYS)
    ratio = (3 * x[:, 0] - t).exp().clamp(*RATIOS)
    assert ratio.min() == RATIOS[0] or ratio.max() == RATIOS[1]
    gradient = WEIGHTS[name](ratio)[:, None] * plain.gradient(samples, fake, teacher)
    (found,) = torch.autograd.grad(method.score_loss(nets, samples.requires_grad_(), {}, KEYS).sum(), samples)
    torch.testing.assert_close(found * 2, gradient)  # the loss is a mean over two dimensions
    if name == "reverse_kl":
        losses = (each.score_loss(nets, samples, {}, KEYS) for each in (method, Dmd()))
        assert torch.equal(*losses)


@pytest.mark.parametrize("method", [Dmd, Anyflow])
@pytest.mark.parametrize("lacks", [{"gan_weight": 0.0}, {"gan_loss": "hinge"}, {"critic_sees": "blurred"}])
def test_a_divergence_without_a_ratio_is_refused(method, lacks):
    with pytest.raises(UserError, match="divergence forward_kl needs the ratio of densities"):
        method(divergence="forward_kl", **TOLD | lacks)
    with pytest.raises(UserError, match="unknown divergence 'forward_lk'; did you mean 'forward_kl'"):
        method(divergence="forward_lk")


class SameTime(Dmd):
    """Guidance at times of its own that are the same."""

    def noised(self, samples, stream, keys, after=None):
        return super().noised(samples, "compare", keys)


def guided(method, nets, samples, batch):
    teacher = method.estimates(nets, samples, batch, KEYS)[2]
    if method.guidance_times == "shared":
        return teacher
    return teacher + method.added_by_guidance(nets, samples, batch, KEYS)


def test_guidance_at_the_same_times_is_that_of_dmd_and_none_without_guidance():
    models = {name: mlp(seed, classes=2).double() for seed, name in enumerate(("student", "fake", "teacher"))}
    batch, samples = {"label": KEYS[:, 1] % 2}, randomness.noises("samples", KEYS, (2,)).double()
    shared = guided(Dmd(guidance=2.5), models, samples, batch)
    apart = guided(SameTime(guidance=2.5, guidance_times="later"), models, samples, batch)
    torch.testing.assert_close(apart, shared, rtol=0, atol=1e-12)
    plain = guided(Dmd(), models, samples, batch)
    twice, once = (
        guided(Dmd(guidance=w, guidance_times="later"), models, samples, batch) - plain for w in (3.0, 2.0)
    )
    torch.testing.assert_close(twice, 2 * once, rtol=0, atol=1e-12)  # so it is 0 with guidance 1
    assert once.abs().max() > 1e-3
    assert not torch.allclose(once, guided(Dmd(guidance=2.0), models, samples, batch) - plain)


def test_the_size_of_a_gradient_is_that_of_the_conditional_correction(monkeypatch):
    nets = {name: mlp(seed, classes=2) for seed, name in enumerate(("student", "fake", "teacher"))}
    batch, samples = {"label": KEYS[:, 1] % 2}, 2 * randomness.noises("samples", KEYS, (2,))
    method = Dmd(guidance=4.0, guidance_times="later")
    _, fake, teacher = method.estimates(nets, samples, batch, KEYS)
    added = method.added_by_guidance(nets, samples, batch, KEYS)
    size = (samples - teacher).abs().mean(dim=1, keepdim=True)
    called, forward = [], Model.forward

    def counting(model, *given, **conditions):
        called.append(model)
        return forward(model, *given, **conditions)

    monkeypatch.setattr(Model, "forward", counting)
    loss = method.score_loss(nets, samples.requires_grad_(), batch, KEYS).sum()
    (found,) = torch.autograd.grad(loss, samples)
    torch.testing.assert_close(found * 2, (fake - teacher - added) / size)
    # of the teacher: the conditional one where scores are compared; it and the null one at the other times
    assert [sum(model is nets[name] for model in called) for name in ("teacher", "fake")] == [3, 1]


@pytest.mark.parametrize("facts", [{"guidance_channels": 1}, {"guidance_input": True}])
def test_guidance_at_times_of_its_own_is_what_the_teacher_shows(facts):
    nets = {name: mlp(seed, classes=2) for seed, name in enumerate(("student", "fake"))}
    nets["teacher"] = mlp(2, classes=2, **facts)
    batch, samples = {"label": KEYS[:, 1] % 2}, randomness.noises("samples", KEYS, (2,))
    shared, plain = (Dmd(guidance=w).estimates(nets, samples, batch, KEYS)[2] for w in (2.5, 1.0))
    added = SameTime(guidance=2.5, guidance_times="later").added_by_guidance(nets, samples, batch, KEYS)
    assert added.abs().max() > 1e-3
    torch.testing.assert_close(added, shared - plain)


@pytest.mark.parametrize("through", ["last", "all"])
def test_guidance_has_times_from_that_of_the_students_last_call(through, monkeypatch):
    method = Dmd(guidance=2.0, guidance_times="later", through=through)
    student, keys = mlp(), randomness.keys_of(0, 0, 500)
    asked, drawn = [], {}
    forward, noised = Model.forward, Dmd.noised

    def asking(model, x, t, **conditions):
        if torch.is_grad_enabled():
            asked.append(t)
        return forward(model, x, t, **conditions)

    def drawing(method, samples, stream, keys, after=None):
        drawn[stream] = noised(method, samples, stream, keys, after)
        return drawn[stream]

    monkeypatch.setattr(Model, "forward", asking)
    monkeypatch.setattr(Dmd, "noised", drawing)
    samples = method.own_samples(student, randomness.noises("noise", keys, (2,)), {}, keys)
    last = method.last_call(student, keys)
    if through == "last":
        torch.testing.assert_close(asked[0], last)
    else:
        assert not last.any()  # all calls are one map of the noise
    nets = {"student": student, "fake": mlp(1, classes=2), "teacher": mlp(2, classes=2)}
    with torch.no_grad():
        method.score_loss(nets, samples, {"label": keys[:, 1] % 2}, keys)
    (compared, _), (later, _) = drawn["compare"], drawn["guide"]
    assert (later >= last).all()
    share = (later - last.clamp(min=0.02)) / (0.95 - last.clamp(min=0.02))
    assert share.mean() == pytest.approx(0.5, abs=0.05)
    assert abs(torch.corrcoef(torch.stack([share, compared]))[0, 1]) < 0.15


def test_times_of_guidance_without_guidance_are_refused():
    with pytest.raises(UserError, match="guidance_times later is for guidance; set guidance"):
        Dmd(guidance_times="later")
