"""Guided pairs of classes with means and spreads of their own: affine, straight after a reflow."""

import numpy as np
import pytest
import torch
from oracles import gaussian
from scipy.integrate import solve_ivp
from torch import nn

from fewstep import grids, randomness
from fewstep.flow import as_flow
from fewstep.methods.endpoint import Endpoint
from fewstep.methods.reflow import Reflow
from fewstep.model import Model, ModelConfig
from fewstep.reference import reference
from fewstep.solvers import integrate

MEANS = torch.tensor([[2.0, 0.0], [-1.0, 1.0], [0.3, 0.4]], dtype=torch.float64)  # the last is the null class
STDS = torch.tensor([[0.5, 1.5], [1.2, 0.4], [1.0, 0.9]], dtype=torch.float64)
FINE = grids.uniform(400, solver="rk4")
LABEL = torch.arange(8) % 2
NOISE = torch.randn(8, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


class Classes(nn.Module):
    """A Gaussian for each class."""

    def forward(self, x, t, label):
        oracles = [gaussian(mean, std) for mean, std in zip(MEANS, STDS, strict=True)]
        each = torch.stack([oracle.velocity(x, t) for oracle in oracles])
        return each[label, torch.arange(len(x))]


class Straight(nn.Module):
    """The flow after a reflow on pairs (noise, shift + scale noise) of each class."""

    def __init__(self, shift, scale):
        super().__init__()
        self.shift, self.scale = shift, scale

    def forward(self, x, t, label):
        shift, scale, t = self.shift[label], self.scale[label], t[:, None]
        return shift + (scale - 1) * (x - t * shift) / (1 - t + t * scale)


def model(network, **config):
    return Model(ModelConfig(architecture={"name": "mlp"}, shape=(2,), classes=2, **config), network)


def ends(noise, label, w):
    return integrate(as_flow(model(Classes()), guidance=w), noise, FINE, label=label).x


def maps(w):
    """Return shift and scale, (classes, 2), of the affine map from noise to data: each value has its own."""
    label = torch.arange(2)
    shift = ends(torch.zeros(2, 2, dtype=torch.float64), label, w)
    return shift, ends(torch.ones(2, 2, dtype=torch.float64), label, w) - shift


@pytest.mark.parametrize("w", [0.0, 1.0, 1.5, 4.0])
def test_guided_ends_are_those_of_scipys_rk45(w):
    found = ends(NOISE, LABEL, w)
    for z, label, end in zip(NOISE, LABEL, found, strict=True):

        def velocity(t, x, label=label):
            x, at = torch.from_numpy(x)[None], torch.tensor([t], dtype=torch.float64)
            own, null = (Classes()(x, at, torch.tensor([i]))[0] for i in (int(label), 2))
            return (null + w * (own - null)).numpy()

        wanted = solve_ivp(velocity, (0, 1), z.numpy(), method="RK45", rtol=1e-10, atol=1e-11).y[:, -1]
        np.testing.assert_allclose(end.numpy(), wanted, rtol=0, atol=1e-8)


@pytest.mark.parametrize("w", [0.0, 1.0, 1.5, 4.0])
def test_a_reflow_of_guided_pairs_has_no_loss_and_one_step_is_exact(w):
    """Liu et al. 2023 (arXiv 2309.06380): the velocity is linear in the state, so pairs are affine."""
    shift, scale = maps(w)
    data, keys = ends(NOISE, LABEL, w), randomness.keys_of(0, 0, 8)
    torch.testing.assert_close(data, shift[LABEL] + scale[LABEL] * NOISE, rtol=0, atol=1e-10)
    pairs = {"noise": NOISE, "data": data, "label": LABEL}
    straight = model(Straight(shift, scale), baked_guidance=w)
    assert Reflow().loss({"student": straight}, pairs, "student", 0.0, keys).max() < 1e-18
    one = integrate(as_flow(straight), NOISE, grids.uniform(1), label=LABEL).x
    torch.testing.assert_close(one, data, rtol=0, atol=1e-10)
    student = model(straight.network, grid=grids.uniform(1), trained_times="grid")
    assert Endpoint().loss({"student": student}, pairs, "student", 0.0, keys).max() < 1e-18
    if w in (0.0, 1.0):
        own = torch.full_like(LABEL, 2) if w == 0 else LABEL
        torch.testing.assert_close(data, MEANS[own] + STDS[own] * NOISE, rtol=0, atol=1e-8)


def test_decoded_samples_of_a_linear_decoder_have_its_mean_and_covariance():
    """Dao et al. 2023 (arXiv 2307.08698): the flow is affine here, so both are known without samples."""
    mean, std = torch.tensor([0.5, -1.0]).double(), torch.tensor([0.3, 1.7]).double()
    decoder = torch.linalg.qr(torch.randn(5, 2, generator=torch.Generator().manual_seed(1)).double())[0]
    offset = torch.arange(5).double()
    probes = torch.cat([torch.zeros(1, 2), torch.eye(2)]).double()
    made = integrate(gaussian(mean, std).flow(), probes, FINE).x @ decoder.T + offset
    torch.testing.assert_close(made[0], decoder @ mean + offset, rtol=0, atol=1e-8)
    jacobian = (made[1:] - made[0]).T
    covariance = decoder @ torch.diag(std**2) @ decoder.T
    torch.testing.assert_close(jacobian @ jacobian.T, covariance, rtol=0, atol=1e-7)


def test_samples_alone_and_among_many_agree_within_the_tolerance():
    flow = as_flow(model(Classes()), guidance=2.0)
    noise, label = (
        torch.randn(64, 2, generator=torch.Generator().manual_seed(2)).double(),
        torch.arange(64) % 2,
    )
    many = reference(flow, noise, tolerance=1e-5, label=label)
    alone = [reference(flow, noise[i : i + 1], tolerance=1e-5, label=label[i : i + 1]) for i in range(8)]
    torch.testing.assert_close(torch.cat([each.x for each in alone]), many.x[:8], rtol=0, atol=2e-4)
    assert len({each.nfe for each in alone} | {many.nfe}) > 1
