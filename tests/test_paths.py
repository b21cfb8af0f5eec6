import oracles
import pytest
import torch

from fewstep import grids, paths
from fewstep.errors import UserError
from fewstep.flow import as_flow, usable_times
from fewstep.solvers import integrate

INNER = torch.tensor([0.05, 0.3, 0.5, 0.8, 0.95], dtype=torch.float64)


@pytest.mark.parametrize("name", paths.PATHS)
def test_derivatives_are_those_of_the_coefficients(name):
    path, step = paths.get(name), 1e-6
    here, after, before = (path.coefficients(INNER + shift) for shift in (0, step, -step))
    torch.testing.assert_close(here.da, (after.a - before.a) / (2 * step), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(here.db, (after.b - before.b) / (2 * step), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", paths.PATHS)
def test_time_of_undoes_canonical_time(name):
    path = paths.get(name)
    times = torch.cat([torch.zeros(1), INNER, torch.ones(1)]).double()
    torch.testing.assert_close(path.time_of(path.canonical_time(times)), times, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", paths.PATHS)
def test_time_of_gives_a_time_of_the_path_for_any_canonical_time(name):
    times = paths.get(name).time_of(torch.linspace(0, 1, 101, dtype=torch.float64))
    assert ((times >= 0) & (times <= 1)).all()
    assert (times.diff() >= 0).all()


@pytest.mark.parametrize("name", paths.PATHS)
def test_canonical_time_increases_from_noise_to_data(name):
    canonical = paths.get(name).canonical_time(torch.linspace(0, 1, 101, dtype=torch.float64))
    assert (canonical.diff() > 0).all()
    assert float(canonical[0]) < 0.02
    assert float(canonical[-1]) > 0.99


def test_known_coefficients():
    half = torch.tensor([0.5], dtype=torch.float64)
    cosine, vp, ve = (paths.get(name).coefficients(half) for name in ("cosine", "vp", "ve"))
    assert float(cosine.a) == pytest.approx(0.5**0.5)
    assert float(vp.a**2 + vp.b**2) == pytest.approx(1)
    assert float(vp.a.log()) == pytest.approx(-(0.25 * 19.9 / 4 + 0.5 * 0.1 / 2))
    assert float(ve.b) == pytest.approx((80 * 0.002) ** 0.5)


@pytest.mark.parametrize("shape", [(3,), (2, 4, 4)])
@pytest.mark.parametrize("name", paths.PATHS)
def test_sample_is_on_the_path_and_moves_along_it(name, shape):
    oracle, path = oracles.gaussian(torch.zeros(shape), torch.ones(shape)), paths.get(name)
    noise, data = oracle.noise(5), oracle.sample(5)
    point = path.sample(noise=noise, data=data, t=INNER)
    for i in range(5):
        c = path.coefficients(INNER[i])
        torch.testing.assert_close(point.x[i], c.a * data[i] + c.b * noise[i])
    ahead = path.sample(noise=noise, data=data, t=INNER + 1e-6)
    behind = path.sample(noise=noise, data=data, t=INNER - 1e-6)
    torch.testing.assert_close(point.velocity, (ahead.x - behind.x) / 2e-6, rtol=1e-5, atol=1e-6)


def test_unknown_path_is_answered_with_those_that_exist():
    with pytest.raises(UserError, match=r"unknown path 'cosin'; did you mean 'cosine'.*linear"):
        paths.get("cosin")


TABLES = [
    {"name": "table"},
    {"name": "table", "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    {"name": "table", "beta_schedule": "squaredcos_cap_v2"},
    {"name": "table", "beta_schedule": "scaled_linear", "rescale_betas_zero_snr": True},
]


@pytest.mark.parametrize("options", TABLES)
def test_a_table_is_a_path_like_any_other(options):
    path, step = paths.get(options), 1e-6
    here, after, before = (path.coefficients(INNER + shift) for shift in (0, step, -step))
    torch.testing.assert_close(here.a**2 + here.b**2, torch.ones_like(INNER))
    torch.testing.assert_close(here.da, (after.a - before.a) / (2 * step), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(here.db, (after.b - before.b) / (2 * step), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(path.time_of(path.canonical_time(INNER)), INNER, rtol=1e-9, atol=1e-9)


def test_a_table_holds_the_products_of_its_betas():
    path = paths.get({"name": "table", "num_train_timesteps": 4, "beta_start": 0.1, "beta_end": 0.4})
    left = torch.tensor([0.9, 0.9 * 0.8, 0.9 * 0.8 * 0.7, 0.9 * 0.8 * 0.7 * 0.6], dtype=torch.float64)
    index = torch.arange(4, dtype=torch.float64)
    c = path.coefficients(1 - index / 3)
    torch.testing.assert_close(c.a**2, left, rtol=1e-6, atol=0)
    between = path.coefficients(torch.tensor([1 - 0.5 / 3], dtype=torch.float64))
    sigmas = ((1 - left) / left).sqrt()
    assert float(between.b / between.a) == pytest.approx(float((sigmas[0] * sigmas[1]).sqrt()), rel=1e-6)


def test_the_table_of_stable_diffusion_ends_before_data_and_zero_snr_begins_at_noise():
    options = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    start, end = usable_times({"name": "table", **options}, "noise")
    assert (1 - start) / start == pytest.approx(14.6146, rel=1e-4)  # sigma_max and sigma_min as published
    assert end == pytest.approx(0.9717, abs=1e-4)
    start, _ = usable_times({"name": "table", "rescale_betas_zero_snr": True, **options}, "v")
    assert (1 - start) / start == pytest.approx(2**12, rel=1e-3)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_a_second_noise_on_the_way_is_part_of_one_noise(gamma):
    path, step = paths.get({"name": "linear", "gamma": gamma}), 1e-6
    here, after, before = (path.coefficients(INNER + shift) for shift in (0, step, -step))
    torch.testing.assert_close(here.b**2, (1 - INNER) ** 2 + gamma * INNER * (1 - INNER))
    torch.testing.assert_close(here.db, (after.b - before.b) / (2 * step), rtol=1e-6, atol=1e-7)
    times = torch.cat([torch.zeros(1), INNER, torch.ones(1)]).double()
    torch.testing.assert_close(path.time_of(path.canonical_time(times)), times, rtol=1e-9, atol=1e-9)
    at_noise = torch.zeros((), dtype=torch.float64)
    assert float(torch.func.jvp(path.time_of, (at_noise,), (torch.ones_like(at_noise),))[1]) == 1


def test_the_velocity_of_an_interpolant_between_gaussians():
    """b = m' + var' / (2 var) (x - m): gamma^2 = 2 t (1 - t); Albergo et al. 2023 (arXiv 2303.08797)."""
    oracle, mean, std = oracles.gaussian([2.0], [0.8]), 2.0, 0.8
    model = oracles.as_model(oracle, path={"name": "linear", "gamma": 2.0})
    x, t = oracle.noise(5), INNER[:, None]
    var = (1 - t) ** 2 + (t * std) ** 2 + 2 * t * (1 - t)
    slope = (-2 * (1 - t) + 2 * t * std**2 + 2 - 4 * t) / (2 * var)
    torch.testing.assert_close(model(x, INNER), mean + slope * (x - t * mean), rtol=1e-12, atol=1e-12)
    flow = as_flow(model)
    ends = integrate(flow, x, grids.uniform(400, end=flow.t_end, solver="heun")).x
    torch.testing.assert_close(ends, mean + std * x, rtol=0, atol=1e-4)


def test_the_range_of_ve_is_an_option():
    assert usable_times({"name": "ve", "sigma_min": 0.01, "sigma_max": 50.0}, "data") == pytest.approx(
        (1 / 51, 1 / 1.01)
    )


@pytest.mark.parametrize(
    ("path", "told"),
    [
        (
            {"name": "table", "beta_schedul": "linear"},
            "path table: unknown option 'beta_schedul'; did you mean",
        ),
        ({"name": "table", "beta_schedule": "cubic"}, "unknown beta_schedule 'cubic'.*scaled_linear"),
        ({"name": "table", "beta_end": 2.0}, "beta_end must be below 1, got 2.0"),
        ({"name": "table", "beta_end": 0.9}, "no data at the last index.*lower beta_end 0.9 or num_train"),
        ({"name": "table", "beta_start": 1e-9}, "or no noise at the first.*raise beta_start 1e-09"),
        ({"name": "table", "num_train_timesteps": 1}, "num_train_timesteps must be 2 or more, got 1"),
        ({"name": "ve", "sigma_min": 90.0}, "0 < sigma_min < sigma_max must hold, got 90.0 and 80.0"),
        ({"name": "edm", "sigma_data": 0.0}, "path edm: sigma_data must be a number above 0, got 0.0"),
        ({"name": "edm", "sigma_max": 0.001}, "edm: 0 < sigma_min < sigma_max must hold"),
        ({"name": "vp", "beta_max": "high"}, "path vp: beta_max must be of type float, got 'high'"),
        ({"name": "table", "num_train_timesteps": 10.5}, "num_train_timesteps must be of type int, got 10.5"),
        ({"name": "table", "beta_end": True}, "path table: beta_end must be of type float, got True"),
        ({"name": "linear", "shift": 3}, "path linear: unknown option 'shift'.*gamma"),
        ({"name": "linear", "gamma": -1.0}, "path linear: gamma must be a number from 0, got -1.0"),
        ({"name": "cosine", "shift": 3}, "path cosine: unknown option 'shift'.*none"),
        ({"beta_start": 0.1}, "unknown path 'None'"),
    ],
)
def test_wrong_options_of_a_path_are_reported(path, told):
    with pytest.raises(UserError, match=told):
        paths.get(path)
