"""Methods that train average velocities: nothing is left to learn at exact maps, and what they refuse."""

import math
from dataclasses import replace
from itertools import product

import pytest
import torch
from flow_maps import as_flow_map, average_velocity
from oracles import Gaussian, as_model, gaussian, mixture
from test_fixed_points import REFLOWED, Shifted

from fewstep import grids, paths, predictions, randomness
from fewstep.errors import UserError
from fewstep.flow import as_flow
from fewstep.methods import _spans
from fewstep.methods.consistency import Consistency
from fewstep.methods.flow_map_distillation import IDENTITIES, FlowMapDistillation
from fewstep.methods.meanflow import Meanflow
from fewstep.methods.shortcut import Shortcut
from fewstep.model import Model, ModelConfig, build
from fewstep.noises import GAUSSIAN
from fewstep.settings import TrainSettings
from fewstep.timing import with_second_time, with_slow_times
from fewstep.training.networks import Training

ORACLE = gaussian([1.0, -0.5], [0.5, 1.5])
ON_A_LINE = mixture([0.3, 0.7], [[2.0], [-1.0]], [0.3, 0.6])
N = 300
KEYS = randomness.keys_of(0, 0, N)


def loss(method, nets, batch, progress=1.0):
    keys = randomness.keys_of(0, 0, len(batch["data"]))
    return method.loss(nets, method.prepare_batch(batch, keys, GAUSSIAN), "student", progress, keys)


def as_consistency(oracle, **config):
    architecture = {"name": "oracle", "slow_times": True}
    return as_flow_map(
        oracle, architecture=architecture, trained_times="until_1", grid=grids.uniform(1), **config
    )


PAIRS = {
    "gaussian": (ORACLE, gaussian([1.1, -0.5], [0.5, 1.5])),
    "mixture": (ON_A_LINE, mixture([0.3, 0.7], [[2.3], [-1.0]], [0.3, 0.6])),
}
IDENTITIES_OF = [
    *product(["gaussian", "mixture"], IDENTITIES, [False]),
    *product(["gaussian", "mixture"], ["eulerian", "lagrangian"], [True]),
]


@pytest.mark.parametrize(("kind", "identity", "exact"), IDENTITIES_OF)
def test_each_identity_holds_at_the_exact_map(kind, identity, exact):
    oracle, other = PAIRS[kind]
    nets = {"student": as_flow_map(oracle), "teacher": as_model(oracle)}
    method = FlowMapDistillation(identity=identity, exact=exact)
    left = loss(method, nets, {"data": oracle.sample(N)}).sqrt()  # of a sample, root mean square
    if exact or identity == "semigroup":
        assert left.max() < 1e-12
    else:  # what differences leave, most where they are one-sided
        assert left.max() < (6e-3 if kind == "gaussian" else 2e-2)
        assert left.median() < 2e-4
    changed = loss(method, nets | {"teacher": as_model(other)}, {"data": oracle.sample(N)}).sqrt()
    assert changed.max() > 10 * left.max()


@pytest.mark.parametrize(("path", "prediction"), list(product(paths.PATHS, predictions.PARTS)))
def test_students_and_teachers_of_every_convention_agree(path, prediction):
    nets = {
        "student": as_flow_map(ORACLE, path=path, prediction=prediction),
        "teacher": as_model(ORACLE, path=path, prediction=prediction),
    }
    for identity in IDENTITIES:
        method = FlowMapDistillation(identity=identity)
        left = loss(method, nets, {"data": ORACLE.sample(N)})
        assert left.median() < 1e-4
        assert left.mean() < 1e-3, identity  # a step until data counts, also where a path ends before


@pytest.mark.parametrize("exact", [True, False])
def test_meanflow_on_pairs_has_no_loss_at_the_reflowed_field(exact):
    """There the velocity along a pair's chord is constant, so the average until any time is that velocity."""

    class Network(torch.nn.Module):
        def forward(self, x, t, until=None):
            data, noise = REFLOWED.posterior(x, t, 1 - t)
            return data - noise

    architecture = {"name": "oracle", "second_time": True, "slow_times": True}
    model = Model(ModelConfig(architecture=architecture, shape=(2,)), Network())
    noise = REFLOWED.noise(N)
    batch = {"noise": noise, "data": REFLOWED.mean + REFLOWED.std * noise}
    assert loss(Meanflow(power=0, exact=exact), {"student": model}, batch).max().sqrt() < 1e-12
    model = Shifted(model, N)
    model.config = model.model.config
    model.shift.data += 0.1
    assert loss(Meanflow(power=0, exact=exact), {"student": model}, batch).min() > 1e-3


def test_meanflow_on_data_does_not_move_the_exact_map_and_its_target_has_the_known_variance():
    n, oracle = 20_000, gaussian([0.5], [0.6])
    method = Meanflow(learn_from="data", at_once=0.01, power=0, exact=True)
    model = Shifted(as_flow_map(oracle), n)
    keys = randomness.keys_of(0, 0, n)
    batch = method.prepare_batch({"data": oracle.sample(n)}, keys, GAUSSIAN)
    losses = method.loss({"student": model}, batch, "student", 0.0, keys)
    (gradient,) = torch.autograd.grad(losses.sum(), model.shift)
    assert abs(gradient.mean()) < 4 * gradient.std() / math.sqrt(n)
    flow = as_flow(as_flow_map(oracle))
    shares = {"to_data": method.to_data, "from_noise": method.from_noise, "at_once": method.at_once}
    t, until = (time.double() for time in _spans.draw_spans(flow, keys, **shares))
    variance_t, variance_r = ((1 - time) ** 2 + (0.6 * time) ** 2 for time in (t, until))
    expected = (0.6**2 * variance_r / variance_t**2).mean()
    assert float(losses.detach().mean()) == pytest.approx(float(expected), rel=0.05)


@pytest.mark.parametrize(("begin", "end", "variance"), [(0.2, 0.9, 0.2535), (0.0, 1.0, 0.1296)])
def test_meanflow_on_data_has_a_target_of_the_known_mean_and_variance(begin, end, variance, monkeypatch):
    """Its variance given the state is s^2 S(end) / S(begin)^2, S that of a state."""
    n, oracle = 400_000, gaussian([0.5], [0.6])
    at = torch.tensor([begin, end], dtype=torch.float64)[:, None].repeat(1, n)
    monkeypatch.setattr(_spans, "draw_spans", lambda *args, **kwargs: tuple(at))
    model, method = Shifted(as_flow_map(oracle), n), Meanflow(learn_from="data", power=0, exact=True)
    keys = randomness.keys_of(0, 0, n)
    batch = method.prepare_batch({"data": oracle.sample(n)}, keys, GAUSSIAN)
    losses = method.loss({"student": model}, batch, "student", 0.0, keys)
    (residual,) = torch.autograd.grad(losses.sum() / 2, model.shift)
    assert float(residual.square().mean()) == pytest.approx(variance, rel=0.01)
    assert abs(residual.mean()) < 0.01 * residual.std()


class Affine(torch.nn.Module):
    """The map of a Gaussian as a network whose parameters are that Gaussian's."""

    def __init__(self, mean, std):
        super().__init__()
        self.mean, self.std = (torch.nn.Parameter(torch.tensor(x, dtype=torch.float64)) for x in (mean, std))

    def forward(self, x, t, until=None):
        oracle = Gaussian(self.mean, self.std)
        return average_velocity(oracle, x, t, t if until is None else until)


def gradients(method, n, *, mean, std):
    """Return the loss's gradients by mean and std, a row for each of some parts of n samples."""
    oracle = gaussian([0.5], [0.6])
    architecture = {"name": "oracle", "second_time": True, "slow_times": True}
    network, teacher = Affine(mean, std), as_model(oracle)
    model = Model(ModelConfig(architecture=architecture, shape=(1,)), network)
    found = []
    for part in range(20):
        keys = randomness.keys_of(0, part * n, (part + 1) * n)
        batch = method.prepare_batch({"data": oracle.sample(n, seed=part)}, keys, GAUSSIAN)
        losses = method.loss({"student": model, "teacher": teacher}, batch, "student", 1.0, keys)
        found.append(torch.cat(torch.autograd.grad(losses.mean(), list(network.parameters()))))
    return torch.stack(found)


EXACTLY = [FlowMapDistillation(identity=name, exact=name != "semigroup") for name in IDENTITIES]


@pytest.mark.parametrize("method", EXACTLY, ids=IDENTITIES)
def test_the_exact_parameters_of_a_map_have_no_gradient_by_distillation(method):
    assert gradients(method, 50, mean=[0.5], std=[0.6]).abs().max() < 1e-12
    assert gradients(method, 50, mean=[0.5], std=[0.7]).mean(dim=0).abs().max() > 1e-3


def test_the_exact_parameters_of_a_map_have_none_on_average_by_data_alone():
    method = Meanflow(learn_from="data", power=0, exact=True)
    found = gradients(method, 500, mean=[0.5], std=[0.6])
    error = found.std(dim=0) / math.sqrt(len(found))
    assert (found.mean(dim=0).abs() < 4 * error).all()
    other = gradients(method, 500, mean=[0.4], std=[0.7])
    assert (other.mean(dim=0).abs() > 6 * error).all()


def test_a_power_weighs_samples_by_their_own_loss():
    nets, batch = {"student": as_flow_map(ORACLE)}, {"data": ORACLE.sample(N)}
    plain = loss(Meanflow(learn_from="data", power=0), nets, batch)
    weighed = loss(Meanflow(learn_from="data", power=0.75), nets, batch)
    torch.testing.assert_close(weighed, plain / (plain + 1e-3) ** 0.75)


def test_shortcut_has_no_loss_at_the_exact_map_where_it_learns_from_halves():
    method, model = Shortcut(halves=1.0, finest=16), as_flow_map(ORACLE)
    nets = {"student": model, "target": as_flow_map(ORACLE)}
    assert loss(method, nets, {"data": ORACLE.sample(N)}).max().sqrt() < 1e-12
    other = gaussian([1.0, -0.5], [0.6, 1.5])
    assert loss(method, nets | {"target": as_flow_map(other)}, {"data": ORACLE.sample(N)}).mean() > 1e-4


def test_shortcut_draws_equal_steps_of_every_power_of_two():
    method = Shortcut(halves=0.5, finest=8)
    t, until, halved = method.steps(0.0, randomness.keys_of(0, 0, 8000))
    length = until - t
    assert set(length[halved].tolist()) == {1.0, 0.5, 0.25}
    assert set(length[~halved].tolist()) == {0.125}
    assert halved.double().mean() == pytest.approx(0.5, abs=0.03)
    torch.testing.assert_close((t / length).round(), t / length)
    assert until.max() <= 1


def test_consistency_by_a_teacher_is_exact_up_to_its_heun_step():
    nets = {"student": as_consistency(ORACLE), "target": as_consistency(ORACLE), "teacher": as_model(ORACLE)}
    batch = {"data": ORACLE.sample(N)}
    coarse, fine = (loss(Consistency(intervals=(n, n)), nets, batch).mean() for n in (16, 64))
    assert fine < 2e-11
    assert coarse / fine > 500  # the square of an error that falls with the cube of the step
    other = as_model(gaussian([1.1, -0.5], [0.5, 1.5]))
    assert loss(Consistency(intervals=(64, 64)), nets | {"teacher": other}, batch).mean() > 1e-6


def test_intervals_grow_with_the_training():
    seen = []
    model = as_consistency(ORACLE)
    model.register_forward_hook(lambda module, args, output: seen.append(args[1]))
    nets = {"student": model, "target": as_consistency(ORACLE), "teacher": as_model(ORACLE)}
    for progress, n in ((0.0, 4), (0.5, 8), (1.0, 16)):
        loss(Consistency(intervals=(4, 16)), nets, {"data": ORACLE.sample(N)}, progress)
        assert set((seen.pop() * n).tolist()) == set(range(n))


def test_consistency_by_chords_does_not_move_the_exact_map():
    n, method = 20_000, Consistency(teacher=False, intervals=(64, 64))
    keys = randomness.keys_of(0, 0, n)
    model = Shifted(as_consistency(ORACLE), n)
    nets = {"student": model, "target": as_consistency(ORACLE)}
    losses = method.loss(nets, {"data": ORACLE.sample(n)}, "student", 1.0, keys)
    (gradient,) = torch.autograd.grad(losses.sum(), model.shift)
    assert abs(gradient.mean()) < 4 * gradient.std() / math.sqrt(n)


@pytest.mark.parametrize("exact", [True, False])
def test_the_tangent_is_zero_at_the_exact_map_and_never_longer_than_one(exact):
    method = Consistency(kind="continuous", exact=exact)
    nets = {"student": as_consistency(ORACLE), "teacher": as_model(ORACLE)}
    assert loss(method, nets, {"data": ORACLE.sample(N)}).max().sqrt() < (1e-12 if exact else 6e-3)
    early = loss(method, nets, {"data": ORACLE.sample(N)}, progress=0.1)
    assert early.mean() > 1e-3  # the derivative counts only half
    sizes = _spans.normalised(1e3 * ORACLE.noise(N)).square().mean(dim=1)
    assert sizes.max() < 1


def test_continuous_consistency_is_the_eulerian_identity_until_data():
    model = Shifted(as_flow_map(ORACLE), N)
    nets = {"student": model, "teacher": as_model(ORACLE)}
    identity = FlowMapDistillation(identity="eulerian", to_data=1.0, from_noise=0.0, at_once=0.0, exact=True)
    x, t = ORACLE.noise(N), torch.linspace(0.1, 0.9, N).double()
    model.shift.data += 0.2
    target = identity.target(*map(as_flow, nets.values()), x, t, torch.ones_like(t), {}, KEYS)
    jump = Shifted(as_consistency(ORACLE), N)
    jump.shift.data += 0.2
    tangent = Consistency(kind="continuous", exact=True).tangent(
        as_flow(jump), x, t, ORACLE.velocity(x, t), 1.0, {}
    )
    torch.testing.assert_close(tangent, target - as_flow(model)(x, t, until=1.0))


class Jumping(torch.nn.Module):
    """A network of two times that is only asked for steps until data."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x, t):
        return self.network(x, t, until=torch.ones_like(t))


def test_meanflow_until_data_is_continuous_consistency_for_any_network(monkeypatch):
    plain = build(ModelConfig(**SMALL), seed=0)
    model = with_slow_times(with_second_time(plain, seed=0), seed=0).double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.2 * torch.randn(weight.shape, generator=generator, dtype=torch.float64))
    config = replace(plain.config, architecture={**plain.config.architecture, "slow_times": True})
    jumping = Model(replace(config, trained_times="until_1", grid=grids.uniform(1)), Jumping(model.network))
    t = torch.linspace(0.05, 0.95, N).double()
    monkeypatch.setattr(_spans, "draw_spans", lambda *args, **kwargs: (t, torch.ones_like(t)))
    noise, data = (randomness.noises(name, KEYS, (2,)).double() for name in ("noise", "data"))
    one = loss(Meanflow(power=0, exact=True), {"student": model}, {"noise": noise, "data": data})
    x, velocity = _spans.on_chord(noise, data, t), data - noise
    method = Consistency(kind="continuous", teacher=False, exact=True)
    tangent = method.tangent(as_flow(jumping), x, t, velocity, 1.0, {})
    torch.testing.assert_close(one.detach(), tangent.square().mean(dim=1).detach())


def test_consistency_by_chords_moves_a_student_as_that_by_the_exact_teacher_does_on_average():
    """But for the difference between a Heun step and a chord, which falls with the square of the step."""
    n, wrong = 40_000, gaussian([1.5, -0.5], [0.6, 1.5])
    keys = randomness.keys_of(0, 0, n)
    found = []
    for teacher in (False, True):
        model = Shifted(as_consistency(wrong), n)
        nets = {"student": model, "target": as_consistency(wrong), "teacher": as_model(ORACLE)}
        method = Consistency(teacher=teacher, intervals=(256, 256))
        losses = method.loss(nets, {"data": ORACLE.sample(n)}, "student", 1.0, keys)
        found.append(torch.autograd.grad(losses.sum(), model.shift)[0])
    difference = found[0] - found[1]
    assert abs(difference.mean()) < 4 * difference.std() / math.sqrt(n)
    assert abs(found[1].mean()) > 8 * difference.std() / math.sqrt(n)


def test_steps_have_the_shares_that_were_asked():
    flow = as_flow(as_flow_map(ORACLE))
    keys = randomness.keys_of(0, 0, 20_000)
    t, until = _spans.draw_spans(flow, keys, to_data=0.5, from_noise=0.2, at_once=0.25)
    assert (t <= until).all()
    for share, rows in ((0.5 * 0.75, until == 1), (0.25, until == t), (0.2, t == 0)):
        assert rows.double().mean() == pytest.approx(share, abs=0.015)


def trained(method, model, load=None):
    return Training(method, model, load or {}.get, TrainSettings(steps=40), 0, torch.device("cpu"))


def test_a_training_keeps_the_averages_that_a_method_asks_for():
    model = with_second_time(
        build(ModelConfig(architecture={"name": "mlp", "width": 8, "depth": 1}, shape=(2,)), seed=0), seed=0
    )
    training = trained(Shortcut(decay=0.5), model)
    start = [p.clone() for p in model.parameters()]
    training.take_step({"data": torch.randn(8, 2)}, randomness.keys_of(0, 0, 8))
    target = training.modules["target"]
    assert not any(p.requires_grad for p in target.parameters())
    decay = 1 / 10  # its ramp begins there
    for kept, before, now in zip(target.parameters(), start, model.parameters(), strict=True):
        torch.testing.assert_close(kept, decay * before + (1 - decay) * now)


SMALL = {"architecture": {"name": "mlp", "width": 8, "depth": 1}, "shape": (2,)}


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (Consistency(), "give it a grid of one Euler step"),
        (FlowMapDistillation(identity="eulerian"), "with_slow_times gives the student slow ones"),
        (Meanflow(), "with_slow_times gives the student slow ones"),
    ],
)
def test_students_that_do_not_fit_are_refused(method, message):
    plain = build(ModelConfig(**SMALL), seed=0)
    model = with_second_time(plain, seed=0) if method.needs.second_time else plain
    with pytest.raises(UserError, match=message):
        method.networks(model, lambda name: plain)


def test_teachers_that_give_no_velocity_are_refused():
    plain = build(ModelConfig(**SMALL), seed=0)
    student = with_second_time(plain, seed=0)
    with pytest.raises(UserError, match="the teacher gives no velocity at all times"):
        FlowMapDistillation().networks(student, lambda name: student)
    other = build(ModelConfig(**SMALL | {"shape": (3,)}), seed=0)
    with pytest.raises(UserError, match="must make the same kind of samples"):
        FlowMapDistillation().networks(student, lambda name: other)
    jumping = replace(plain.config, grid=grids.uniform(1))
    slow = with_slow_times(plain, seed=0)
    with pytest.raises(UserError, match="one time, but the student's has a second"):
        Consistency().networks(Model(replace(student.config, grid=jumping.grid), student.network), None)
    with pytest.raises(UserError, match="with_slow_times gives the student slow ones"):
        Consistency(kind="continuous").networks(Model(jumping, plain.network), lambda name: plain)
    fitting = Model(replace(slow.config, grid=jumping.grid), slow.network)
    assert Consistency(kind="continuous").networks(fitting, lambda name: plain).keys() == {
        "student",
        "teacher",
    }


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FlowMapDistillation(identity="euler"), "unknown identity 'euler'; did you"),
        (lambda: FlowMapDistillation(to_data=1.5), "to_data is a share from 0 to 1"),
        (
            lambda: FlowMapDistillation(identity="semigroup", at_once=0),
            "identity semigroup learns the teacher",
        ),
        (lambda: Meanflow(at_once=0), "at_once alone; set it above 0"),
        (lambda: Meanflow(learn_from="pair"), "unknown source 'pair'; did you mean 'pairs'"),
        (lambda: Shortcut(finest=100), "finest must be a whole number, a power of 2 from 2, got 100"),
        (lambda: Shortcut(finest=2.0), "a power of 2 from 2, got 2.0"),
        (lambda: Shortcut(decay=1.0), "decay must be from 0 up to but not 1"),
        (lambda: Consistency(kind="discret"), "unknown kind 'discret'; did you mean 'discrete'"),
        (lambda: Consistency(intervals=(8, 4)), "intervals must be two whole numbers from 1, in order"),
        (lambda: Consistency(intervals=(2.5, 8)), "intervals must be two whole numbers"),
        (lambda: Consistency(teacher=False, guidance=2.0), "guidance 2.0 needs `teacher: true`"),
        (lambda: Consistency(distance="lpips"), "distance 'lpips'"),
    ],
)
def test_options_that_can_not_be(make, message):
    with pytest.raises(UserError, match=message):
        make()
