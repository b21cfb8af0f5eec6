import oracles
import pytest
import torch

from fewstep import paths, predictions
from fewstep.errors import UserError

TIMES = torch.tensor([0.05, 0.3, 0.5, 0.8, 0.95], dtype=torch.float64)


@pytest.mark.parametrize("shape", [(3,), (2, 4, 4)])
@pytest.mark.parametrize("path", paths.PATHS)
@pytest.mark.parametrize("prediction", predictions.PARTS)
def test_solve_undoes_express(prediction, path, shape):
    oracle = oracles.gaussian(torch.zeros(shape), torch.ones(shape))
    noise, data, law = oracle.noise(5), oracle.sample(5), paths.get(path)
    c = law.coefficients(TIMES)
    x = law.sample(noise=noise, data=data, t=TIMES).x
    output = predictions.express(prediction, data, noise, c)
    found_data, found_noise = predictions.solve(prediction, x, output, c)
    torch.testing.assert_close(found_data, data, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found_noise, noise, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("path", [*paths.PATHS, *({"name": "linear", "gamma": g} for g in (0.5, 2.0))])
def test_velocity_to_score_and_back_is_exact(path):
    """Albergo et al. 2023 (arXiv 2303.08797): either tells the other, at the same point."""
    oracle, c = oracles.two_gaussians(), paths.get(path).coefficients(TIMES)
    x = oracle.noise(5)
    velocity = predictions.express("velocity", *oracle.posterior(x, c.a, c.b), c)
    score = predictions.express("score", *predictions.solve("velocity", x, velocity, c), c)
    again = predictions.express("velocity", *predictions.solve("score", x, score, c), c)
    torch.testing.assert_close(again, velocity, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("path", paths.PATHS)
def test_velocity_is_that_of_the_path(path):
    oracle, law = oracles.gaussian([0.0, 0.0], [1.0, 1.0]), paths.get(path)
    noise, data = oracle.noise(5), oracle.sample(5)
    output = predictions.express("velocity", data, noise, law.coefficients(TIMES))
    torch.testing.assert_close(output, law.sample(noise=noise, data=data, t=TIMES).velocity)


def test_score_is_the_gradient_of_the_log_density():
    """For Gaussian data the marginal at t is N(a mean, a^2 std^2 + b^2)."""
    oracle, law = oracles.gaussian([1.5], [0.6]), paths.get("cosine")
    c = law.coefficients(TIMES)
    x = oracle.noise(5).requires_grad_()
    variance = (c.a**2 * 0.6**2 + c.b**2)[:, None]
    log_density = -((x - c.a[:, None] * 1.5) ** 2) / (2 * variance)
    (score,) = torch.autograd.grad(log_density.sum(), x)
    data, noise = oracle.posterior(x.detach(), c.a, c.b)
    torch.testing.assert_close(predictions.express("score", data, noise, c), score)


def test_v_is_the_velocity_of_the_quarter_turn():
    """On the cosine path dx/dt is pi / 2 times b data - a noise, so v is its negative, rescaled."""
    oracle, c = oracles.gaussian([0.0], [1.0]), paths.get("cosine").coefficients(TIMES)
    noise, data = oracle.noise(5), oracle.sample(5)
    v, velocity = (predictions.express(p, data, noise, c) for p in ("v", "velocity"))
    torch.testing.assert_close(v, -velocity / (torch.pi / 2))


def test_reverse_v_is_what_the_network_of_edm_gives():
    """Data is c_skip x + c_out F of noised data x; Karras et al. 2022, table 1."""
    oracle = oracles.gaussian([0.3], [0.7])
    noise, data = oracle.noise(5), oracle.sample(5)
    path, spread = paths.get({"name": "edm", "sigma_data": 0.7}), 0.7
    c = path.coefficients(TIMES)
    sigma = (c.b / c.a)[:, None]
    size = (sigma**2 + spread**2).sqrt()
    noised, f = data + sigma * noise, predictions.express("reverse_v", data, noise, c)
    torch.testing.assert_close(c.a[:, None] * noised, noised / size)
    torch.testing.assert_close((spread / size) ** 2 * noised + sigma * spread / size * f, data)
    torch.testing.assert_close(predictions.express("v", data, noise, c), -f)
    in_float32 = predictions.express("v", data.float(), noise.float(), c.to(data.float()))
    torch.testing.assert_close(in_float32, -f.float())


@pytest.mark.parametrize(
    ("prediction", "t", "solvable"),
    [
        ("velocity", 0.0, True),
        ("velocity", 1.0, True),
        ("data", 0.0, True),
        ("data", 1.0, False),
        ("noise", 0.0, False),
        ("noise", 1.0, True),
        ("v", 0.0, True),
        ("v", 1.0, True),
    ],
)
def test_determinant_vanishes_where_the_prediction_can_not_be_solved(prediction, t, solvable):
    c = paths.get("linear").coefficients(torch.tensor([t]))
    assert bool(predictions.determinant(prediction, c).abs() > 0) is solvable


def test_unknown_prediction_is_answered_with_those_that_exist():
    c = paths.get("linear").coefficients(TIMES)
    with pytest.raises(UserError, match=r"unknown prediction 'nois'; did you mean 'noise'.*velocity"):
        predictions.parts("nois", c)
