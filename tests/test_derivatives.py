"""Derivatives of average velocities, against the identities of exact flow maps and forward mode."""

import pytest
import torch
from flow_maps import as_flow_map
from oracles import as_model, gaussian, mixture

from fewstep.derivatives import STEP, along_flow, by_end
from fewstep.errors import UserError
from fewstep.flow import as_flow
from fewstep.model import ModelConfig, build
from fewstep.paths import like
from fewstep.timing import with_second_time, with_slow_times

GAUSSIAN = gaussian([1.0, -0.5], [0.5, 1.5])
ON_A_LINE = mixture([0.3, 0.7], [[2.0], [-1.0]], [0.3, 0.6])
SHAPES = {"adm": (1, 8, 8), "dit": (1, 8, 8), "mlp": (2,), "unet": (1, 8, 8)}


def steps(n, dtype=torch.float64):
    """Return times and ends, some of them at the ends of the path, or closer than a difference reaches."""
    generator = torch.Generator().manual_seed(0)
    t, until = torch.rand(2, n, generator=generator, dtype=torch.float64).sort(dim=0).values
    t[:5], until[3:9] = 0.0, 1.0
    until[9:12] = t[9:12] + STEP / 3
    return t.to(dtype), until.to(dtype)


def exact_derivatives(oracle, x, t, until):
    """Return both of an exact map: u - (until - t) Du = v(x, t) and u + (until - t) u' = v(X, until)."""
    u, flow = as_flow(as_flow_map(oracle)), as_flow(as_model(oracle))
    average, span = u(x, t, until=until), like(until - t, x)
    return (average - flow(x, t)) / span, (flow(x + span * average, until) - average) / span


def maps(oracle):
    flow = as_flow(as_flow_map(oracle))
    return lambda x, t, until: flow(x, t, until=until)


@pytest.mark.parametrize(("exact", "close"), [(True, 1e-9), (False, 5e-3)])
def test_both_derivatives_are_the_known_ones_of_a_gaussian(exact, close):
    x, (t, until) = GAUSSIAN.noise(200), steps(200)
    along, end = exact_derivatives(GAUSSIAN, x, t, until)
    velocity, u = GAUSSIAN.velocity(x, t), maps(GAUSSIAN)
    torch.testing.assert_close(
        along_flow(u, x, t, until, velocity, exact=exact), along, atol=close, rtol=close
    )
    average, found = by_end(u, x, t, until, exact=exact)
    torch.testing.assert_close(found, end, atol=close, rtol=close)
    torch.testing.assert_close(average, u(x, t, until), rtol=0, atol=1e-12)
    inside = (t > STEP) & (t + STEP < until) & (until < 1 - STEP)
    if not exact:  # central differences, whose error is of second order
        found = along_flow(u, x, t, until, velocity)
        torch.testing.assert_close(found[inside], along[inside], atol=1e-4, rtol=1e-3)


def test_a_difference_by_an_end_at_the_data_is_of_second_order_and_asks_three_times():
    x, t = GAUSSIAN.noise(200), 0.9 * steps(200)[0]
    u, until = maps(GAUSSIAN), torch.ones(200, dtype=torch.float64)
    asked = []

    def counted(x, t, until):
        asked.append(until)
        return u(x, t, until)

    off = by_end(counted, x, t, until)[1] - exact_derivatives(GAUSSIAN, x, t, until)[1]
    assert len(asked) == 3
    assert off.square().mean().sqrt() < 1e-4
    cubic = by_end(lambda x, t, until: x * like(until**3, x), x, t, until)[1]
    torch.testing.assert_close(cubic, x * (3 - 2 * STEP**2))  # 3 - 3 STEP by two


def test_exact_derivatives_are_those_of_a_mixture():
    x, (t, until) = 0.7 * ON_A_LINE.noise(100), steps(100)
    along, end = exact_derivatives(ON_A_LINE, x, t, until)
    u, velocity = maps(ON_A_LINE), ON_A_LINE.velocity(x, t)
    torch.testing.assert_close(along_flow(u, x, t, until, velocity, exact=True), along, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(by_end(u, x, t, until, exact=True)[1], end, atol=1e-9, rtol=1e-9)


def test_differences_are_those_of_a_mixture():
    x, (t, until) = 0.7 * ON_A_LINE.noise(100), steps(100)
    until = torch.maximum(until, t + 0.1).clamp(max=1)
    t = torch.minimum(t, until - 0.1)
    along, end = exact_derivatives(ON_A_LINE, x, t, until)
    u = maps(ON_A_LINE)
    found = along_flow(u, x, t, until, ON_A_LINE.velocity(x, t))
    torch.testing.assert_close(found, along, atol=0.05, rtol=0.05)
    torch.testing.assert_close(by_end(u, x, t, until)[1], end, atol=0.05, rtol=0.05)


def test_a_difference_never_leaves_the_step_or_the_times_that_are_usable():
    x, (t, until) = GAUSSIAN.noise(200), steps(200)
    asked = []

    def u(x, t, until):
        asked.append((t, until))
        return x

    along_flow(u, x, t, until, x, within=(0.0, 0.97))
    by_end(u, x, t, until)
    for low, end in asked:
        assert (low >= 0).all()
        assert (end <= 1).all()
        assert (low <= end + 1e-12).all()
    assert all((low <= 0.97).all() for low, _ in asked[:2])


def test_rounding_to_float32_hardly_matters():
    """What a network in float32 is given and answers is rounded; the map between is exact here."""
    x, (t, until) = GAUSSIAN.noise(2000), steps(2000)
    u, velocity = maps(GAUSSIAN), GAUSSIAN.velocity(x, t)

    def rounded(x, t, until):
        assert x.dtype == t.dtype == until.dtype == torch.float32
        return u(x.double(), t.double(), until.double()).float()

    single = x.float(), t.float(), until.float()
    far = until - t > 2 * STEP
    for found, exact in (
        (along_flow(rounded, *single, velocity.float()), along_flow(u, x, t, until, velocity)),
        (by_end(rounded, *single)[1], by_end(u, x, t, until)[1]),
    ):
        torch.testing.assert_close(found[far].double(), exact[far], atol=1e-4, rtol=0)


def network(name, **options):
    width = 32 if name == "adm" else 8
    facts = {"architecture": {"name": name, "width": width, **options}, "shape": SHAPES[name]}
    model = with_slow_times(with_second_time(awake(build(ModelConfig(**facts), seed=0)), seed=1), seed=1)
    return awake(model).eval()


def awake(model):
    with torch.no_grad():  # a fresh network's output is zero
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return model


def asked(model):
    flow, generator = as_flow(model), torch.Generator().manual_seed(3)
    x, velocity = torch.randn(2, 40, *model.config.shape, generator=generator)
    return lambda x, t, until: flow(x, t, until=until), x, *steps(40, torch.float32), velocity


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize(
    ("name", "options"), [*((name, {}) for name in SHAPES), ("unet", {"attention": True})]
)
def test_under_bfloat16_they_are_what_they_are_in_float32(name, options, exact):
    u, x, t, until, velocity = asked(network(name, **options))
    plain = along_flow(u, x, t, until, velocity, exact=exact), *by_end(u, x, t, until, exact=exact)
    with torch.autocast("cpu", torch.bfloat16):
        half = along_flow(u, x, t, until, velocity, exact=exact), *by_end(u, x, t, until, exact=exact)
    assert not half[0].requires_grad
    torch.testing.assert_close(half, plain)


@pytest.mark.parametrize("name", SHAPES)
def test_differences_are_close_to_forward_mode_for_networks_with_slow_times(name):
    u, x, t, until, velocity = asked(network(name))
    exact = along_flow(u, x, t, until, velocity, exact=True)
    found = along_flow(u, x, t, until, velocity)
    inside = (t > STEP) & (t + STEP < until)
    assert (found - exact)[inside].square().mean() < 0.01 * exact[inside].square().mean()


def test_a_network_with_slow_times_gives_nearly_the_same_velocity():
    facts = {"architecture": {"name": "mlp", "width": 32, "depth": 1}, "shape": (2,)}
    model = awake(build(ModelConfig(**facts), seed=0))
    slower = with_slow_times(model, seed=0)
    x, t = torch.randn(500, 2, generator=torch.Generator().manual_seed(0)), (torch.arange(500) + 0.5) / 500
    same = as_flow(model)(x, t)
    assert (as_flow(slower)(x, t) - same).square().mean() < 0.1 * same.var()
    again = with_slow_times(model, seed=0)
    assert torch.equal(as_flow(again)(x, t), as_flow(slower)(x, t))

    def roughness(model):
        first, second = (model.network.condition(time, None) for time in (t, t + 1e-3))
        return float((second - first).detach().square().mean())

    assert roughness(slower) < 0.5 * roughness(model)


@pytest.mark.parametrize("name", ["adm", "dit"])
def test_a_network_whose_times_are_slow_computes_as_it_did(name):
    architecture = {"name": name, "width": 32}
    model = awake(build(ModelConfig(architecture=architecture, shape=(1, 4, 4)), seed=0))
    x, t = torch.randn(3, 1, 4, 4), torch.rand(3)
    assert torch.equal(with_slow_times(model, seed=1)(x, t), model(x, t))


class Opaque(torch.autograd.Function):
    """What kernels of others are to torch: a function without a forward mode."""

    @staticmethod
    def forward(x):
        return x.clone()

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, gradient):
        return gradient


def test_a_network_without_a_forward_mode_is_refused_with_differences_as_remedy():
    x, (t, until) = GAUSSIAN.noise(20), steps(20)
    plain = maps(GAUSSIAN)

    def u(x, t, until):
        return plain(Opaque.apply(x), t, until)

    with pytest.raises(UserError, match=r"this network has no exact derivative .*; set exact to false"):
        along_flow(u, x, t, until, x, exact=True)
    assert torch.equal(along_flow(u, x, t, until, x), along_flow(plain, x, t, until, x))
