import math

import pytest
import torch
from oracles import as_model, gaussian

from fewstep import paths, randomness
from fewstep.errors import UserError
from fewstep.flow import usable_times
from fewstep.methods import _times
from fewstep.methods.endpoint import Endpoint
from fewstep.methods.flow_guided import FlowGuided
from fewstep.methods.flow_matching import FlowMatching
from fewstep.methods.phased import Phased
from fewstep.methods.reflow import Reflow, annealed
from fewstep.model import ModelConfig, build
from fewstep.noises import GAUSSIAN
from fewstep.training import distances

ORACLE = gaussian([0.0], [1.0])
EVEN = (torch.arange(1_000_000, dtype=torch.float64) + 0.5) / 1_000_000


@pytest.mark.parametrize(
    ("method", "independent", "velocity"),
    [
        (FlowMatching(), True, True),
        (FlowMatching(coupling="optimal_transport"), False, True),
        (FlowMatching(times="logit_normal"), True, False),
        (FlowMatching(label_dropout=0.1), True, False),
        (Reflow(), False, False),
    ],
)
def test_methods_say_what_their_noise_and_their_loss_are(method, independent, velocity):
    assert (method.independent_noise, method.velocity_loss) == (independent, velocity)


def u_density(t):
    return 4 * (torch.exp(4 * t) + torch.exp(4 * (1 - t))) / (2 * math.expm1(4))


def logit_normal_density(t):
    return torch.exp(-(torch.logit(t) ** 2) / 2) / (math.sqrt(2 * math.pi) * t * (1 - t))


@pytest.mark.parametrize(
    ("law", "density"),
    [("uniform", torch.ones_like), ("logit_normal", logit_normal_density), ("u_shaped", u_density)],
)
def test_time_laws_have_their_density(law, density):
    drawn = torch.histc(_times.LAWS[law](EVEN), bins=50, min=0, max=1) / (len(EVEN) / 50)
    wanted = density((torch.arange(2000, dtype=torch.float64) + 0.5) / 2000).reshape(50, 40).mean(dim=1)
    assert (drawn - wanted).abs().max() < 0.01


@pytest.mark.parametrize(
    ("path", "prediction"), [("linear", "velocity"), ("edm", "reverse_v"), ("vp", "noise")]
)
def test_the_law_of_edm_is_of_noise_levels_on_any_path(path, prediction):
    """Karras et al. 2022, table 1: ln sigma of mean -1.2 and deviation 1.2."""
    config = as_model(ORACLE, path=path, prediction=prediction).config
    t = _times.draw_times("edm", config, randomness.keys_of(0, 0, 20_000))
    levels = torch.logit(paths.get(path).canonical_time(t), eps=1e-12).neg().sort().values
    normal = torch.special.ndtr((levels + 1.2) / 1.2)
    share = torch.arange(1, len(levels) + 1) / len(levels)
    assert (normal - share).abs().max() < 1.36 / len(levels) ** 0.5  # Kolmogorov's bound at 5 %


@pytest.mark.parametrize("law", _times.LAWS)
def test_times_stay_where_the_prediction_gives_a_velocity(law):
    extremes = torch.tensor([0.0, 1e-9, 1 - 2**-24])
    assert ((_times.LAWS[law](extremes) >= 0) & (_times.LAWS[law](extremes) <= 1)).all()
    config = as_model(ORACLE, path="vp", prediction="data").config
    t = _times.draw_times(law, config, randomness.keys_of(0, 0, 2000))
    start, end = usable_times("vp", "data")
    canonical = paths.get("vp").canonical_time(t.double())
    assert start - 1e-6 <= canonical.min()
    assert canonical.max() <= end + 1e-6


def test_huber_is_l2_near_zero_and_l1_far_away():
    c = 0.00054 * 6
    small, large = torch.full((1, 2, 3), 1e-6, dtype=torch.float64), torch.full((1, 2, 3), 1e3)
    torch.testing.assert_close(distances.huber(small), small.square().sum(dim=(1, 2)) / (2 * c) / 6)
    torch.testing.assert_close(distances.huber(large), large.norm(dim=(1, 2)) / 6, rtol=1e-3, atol=0)


@pytest.mark.parametrize("size", [1e-6, 1e3])
def test_the_gradient_of_huber_is_linear_near_zero_and_bounded_far_away(size):
    """Lee et al. 2024, eq. 9: e / (c d) for small errors, the unit vector over d for large ones."""
    error = size * torch.tensor([[1.0, -2.0, 0.5]], dtype=torch.float64)
    (gradient,) = torch.autograd.grad(distances.huber(error.requires_grad_()).sum(), error)
    expected = error / (0.00054 * 3) / 3 if size < 1 else error / error.norm() / 3
    torch.testing.assert_close(gradient, expected.detach(), rtol=1e-4, atol=0)


def test_huber_keeps_the_mean_of_pairs_but_not_that_of_crossing_lines():
    """Any premetric has the optimum of l2 where data is a function of the state, and only there."""
    shift = torch.linspace(-1, 1, 2001, dtype=torch.float64)[:, None, None]

    def best(data, distance):
        losses = distance((data[None] + shift - data.mean()).flatten(0, 1)).reshape(2001, -1).mean(1)
        return float(data.mean() - shift[losses.argmin()])

    one, three = torch.full((3, 1), 0.4).double(), torch.tensor([[0.0], [0.1], [0.8]]).double()
    assert best(one, distances.huber) == pytest.approx(best(one, distances.l2), abs=1e-3)
    assert best(three, distances.l2) == pytest.approx(0.3, abs=1e-3)
    assert best(three, distances.huber) == pytest.approx(0.1, abs=5e-3)


def test_huber_each_is_huber_of_single_values():
    error = torch.tensor([[0.0, 3.0, -1e-5]], dtype=torch.float64)
    expected = (0 + 3.0 - 0.001 + 1e-10 / 0.002) / 3
    assert float(distances.huber_each(error)) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("fresh", [0.0, 0.3, 0.8, 1.0])
def test_annealed_noise_is_standard_normal_and_leaves_the_optimum_of_its_coupling(fresh):
    """Oracle A: with Cov(data, noise) = s r the optimal slope is known, r = sqrt(1 - b^2)."""
    n, std, r = 100_000, 0.5, math.sqrt(1 - fresh**2)
    keys, noise = randomness.keys_of(0, 0, n), gaussian([0.0], [1.0]).noise(n)
    data, mixed = std * noise, annealed(noise, fresh, keys)
    assert float(mixed.mean()) == pytest.approx(0, abs=0.015)
    assert float(mixed.var()) == pytest.approx(1, abs=0.02)
    assert float((mixed * noise).mean()) == pytest.approx(r, abs=0.015)
    for t in (0.2, 0.7):
        x, velocity = (1 - t) * mixed + t * data, data - mixed
        variance = (1 - t) ** 2 + t**2 * std**2 + 2 * t * (1 - t) * std * r
        slope = (t * std**2 - (1 - t) + (1 - 2 * t) * std * r) / variance
        assert float((x * velocity).mean() / (x * x).mean()) == pytest.approx(slope, abs=0.02)


def test_annealing_begins_with_fresh_noise_and_ends_with_the_pairs():
    seen = []
    model = as_model(ORACLE)
    model.register_forward_hook(lambda module, args, output: seen.append(args))
    keys, method = randomness.keys_of(0, 0, 50), Reflow(anneal=0.5)
    batch = {"noise": ORACLE.noise(50), "data": torch.zeros(50, 1, dtype=torch.float64)}
    for progress in (0.0, 0.25, 0.5, 1.0):
        method.loss({"student": model}, batch, "student", progress, keys)
    begun, half, end, after = (x / (1 - t)[:, None] for x, t in seen)
    torch.testing.assert_close(after, batch["noise"])
    assert torch.equal(end, after)
    fresh = randomness.noises("train.anneal.noise", keys, (1,)).double()
    torch.testing.assert_close(begun, fresh)
    torch.testing.assert_close(half, math.sqrt(0.75) * batch["noise"] + 0.5 * fresh)


def test_optimal_transport_reorders_the_noise_and_shortens_the_paths():
    method, keys = FlowMatching(coupling="optimal_transport"), randomness.keys_of(0, 0, 32)
    data = {"data": torch.randn(32, 2, generator=torch.Generator().manual_seed(0))}
    plain, paired = (
        FlowMatching().prepare_batch(data, keys, GAUSSIAN)["noise"],
        method.prepare_batch(data, keys, GAUSSIAN)["noise"],
    )
    assert torch.equal(plain.sort(dim=0).values, paired.sort(dim=0).values)
    assert (paired - data["data"]).square().sum() < (plain - data["data"]).square().sum()


def test_a_coupling_that_skews_the_noise_of_a_label_is_refused_for_models_with_classes():
    config = ModelConfig(architecture={"name": "mlp", "width": 8}, shape=(1,), classes=3)
    conditional = build(config, seed=0)
    with pytest.raises(UserError, match=r"coupling optimal_transport is for models without classes"):
        FlowMatching(coupling="optimal_transport").networks(conditional, lambda name: None)
    assert FlowMatching().networks(conditional, lambda name: None)
    assert FlowMatching(coupling="optimal_transport").networks(as_model(ORACLE), lambda name: None)


def test_label_dropout_hides_that_share_of_labels():
    config = ModelConfig(architecture={"name": "mlp", "width": 8}, shape=(1,), classes=3)
    seen = []
    model = build(config, seed=0)
    model.register_forward_hook(
        lambda module, args, kwargs, output: seen.append(kwargs["label"]), with_kwargs=True
    )
    keys, label = randomness.keys_of(0, 0, 4000), torch.arange(4000) % 3
    batch = {"data": torch.zeros(4000, 1), "noise": torch.zeros(4000, 1), "label": label}
    FlowMatching(label_dropout=0.2).loss({"student": model}, batch, "student", 0.0, keys)
    hidden = seen[0] == 3
    assert 0.17 < hidden.float().mean() < 0.23
    assert torch.equal(seen[0][~hidden], label[~hidden])


def test_impossible_options_of_methods_are_refused():
    with pytest.raises(UserError, match="time law 'unifrom'; did you mean 'uniform'"):
        FlowMatching(times="unifrom")
    with pytest.raises(UserError, match="distance 'l1'"):
        Reflow(distance="l1")
    with pytest.raises(UserError, match="compare 'dta'; did you mean 'data'"):
        Reflow(compare="dta")
    with pytest.raises(UserError, match="anneal is a share of the training from 0 to 1, got 2"):
        Reflow(anneal=2)
    with pytest.raises(UserError, match="times must be two numbers"):
        FlowGuided(times=(0.5, 1.0))
    with pytest.raises(UserError, match="weight must be a number from 0, got -1"):
        FlowGuided(weight=-1)
    with pytest.raises(UserError, match="steps_per_phase must be 1 or more, got 0"):
        Phased(steps_per_phase=0)
    with pytest.raises(UserError, match="distance 'lpips'"):
        Endpoint(distance="lpips")
    with pytest.raises(UserError, match="label_dropout is a share from 0 to 1, got 2"):
        FlowMatching(label_dropout=2)
    with pytest.raises(UserError, match=r"coupling.*'indepedent'"):
        FlowMatching(coupling="indepedent")
    with pytest.raises(UserError, match=r"label_dropout 0\.1 needs a model with classes"):
        FlowMatching(label_dropout=0.1).networks(as_model(ORACLE), lambda name: None)
