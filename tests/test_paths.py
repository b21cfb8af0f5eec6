import oracles
import pytest
import torch

from fewstep import paths
from fewstep.errors import UserError

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
def test_noise_gives_way_to_data(name):
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
