"""Networks of EDM, adopted from safetensors: fewstep's Euler is EDM's sampler without its correction."""

from itertools import pairwise

import pytest
import torch
from own_code import checkout_with
from safetensors.torch import save_file
from torch.nn import functional

from fewstep import randomness
from fewstep.checkpoint import load_model, save_model
from fewstep.errors import UserError
from fewstep.flow import as_flow
from fewstep.foreign.assemble import assemble, config_of
from fewstep.foreign.formats.edm import Edm
from fewstep.grids import Grid
from fewstep.progress import SILENT
from fewstep.solvers import integrate
from stages.settings.adopted import AdoptedSettings
from stages.training import adoption

NETS = '''
import torch
from torch import nn


class Precond(nn.Module):
    """A network with the preconditioning of Karras et al. 2022, table 1; called as theirs are."""

    def __init__(self, img_resolution, img_channels, label_dim=0, sigma_data=0.5):
        super().__init__()
        self.sigma_data = sigma_data
        self.mix = nn.Conv2d(img_channels + 1, 8, 3, padding=1)
        self.told = nn.Linear(label_dim, 8) if label_dim else None
        self.out = nn.Conv2d(8, img_channels, 3, padding=1)

    def forward(self, x, sigma, class_labels=None):
        sigma = sigma.reshape(-1, 1, 1, 1)
        size = (sigma**2 + self.sigma_data**2).sqrt()
        asked = torch.cat([x / size, (sigma.log() / 4).expand_as(x[:, :1])], dim=1)
        hidden = torch.tanh(self.mix(asked))
        if self.told is not None:
            hidden = hidden + self.told(class_labels)[:, :, None, None]
        return (self.sigma_data / size) ** 2 * x + sigma * self.sigma_data / size * self.out(hidden)
'''
SIZES = {"img_resolution": 8, "img_channels": 3}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A checkout with the network's class."""
    checkout_with(tmp_path, monkeypatch, "edm", NETS)
    (tmp_path / "data/edm").mkdir(parents=True)
    return tmp_path / "data/edm"


def adopted(place, **said):
    """Return a network with random weights, and the model that is adopted from them."""
    said = Edm(network="nets.edm:Precond", **said)
    from nets.edm import Precond  # of this test's checkout

    torch.manual_seed(0)
    network = Precond(**said.options)
    save_file(network.state_dict(), place / "model.safetensors")
    found = said.look(place)
    shape = found.described.shape((3, 8, 8))
    save_model(place.parent / "adopted", assemble(config_of(found, shape, {}), found))
    return network, load_model(place.parent / "adopted")


def sigmas(steps, low=0.002, high=80.0, rho=7):
    """Karras et al. 2022, eq. 5, and a last 0."""
    part = torch.linspace(0, 1, steps, dtype=torch.float64)
    return [*((high ** (1 / rho) + part * (low ** (1 / rho) - high ** (1 / rho))) ** rho).tolist(), 0.0]


@torch.no_grad()
def theirs(network, noise, levels, *labels):
    """Karras et al. 2022, algorithm 1 with Euler steps alone."""
    x = levels[0] * noise
    for level, following in pairwise(levels):
        x = x + (following - level) * (x - network(x, x.new_full((len(x),), level), *labels)) / level
    return x


@torch.no_grad()
def ours(model, noise, levels, *, guidance=1.0, **conditions):
    flow = as_flow(model, guidance=guidance)
    times = [max(1 / (1 + level), flow.t_start) for level in levels]
    return integrate(flow, noise, Grid(tuple(times), guidance=guidance), **conditions).x


@pytest.mark.parametrize("classes", [0, 5])
def test_eighteen_euler_steps(place, classes):
    network, model = adopted(place, options=SIZES | {"label_dim": classes})
    assert (model.config.classes, model.config.guidable, model.config.shape) == (classes, False, (3, 8, 8))
    noise, label = torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 4, 4])
    told = [functional.one_hot(label, 5).float()] if classes else []
    conditions = {"label": label} if classes else {}
    expected = theirs(network, noise, sigmas(18), *told)
    difference = (ours(model, noise, sigmas(18), **conditions) - expected).abs().max()
    assert float(difference / expected.abs().max()) <= 1e-5


def test_guidance_leads_away_from_a_row_of_zeros(place):
    network, model = adopted(place, options=SIZES | {"label_dim": 5}, null=True)
    noise, label = torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 4, 4])
    told = functional.one_hot(label, 5).float()

    def guided(x, sigma):
        by_label, null = network(x, sigma, told), network(x, sigma, torch.zeros_like(told))
        return null + 2 * (by_label - null)

    expected = theirs(guided, noise, sigmas(6))
    difference = (ours(model, noise, sigmas(6), guidance=2.0, label=label) - expected).abs().max()
    assert float(difference / expected.abs().max()) <= 1e-5


def test_another_range_of_noise(place):
    _, model = adopted(place, options=SIZES, sigma_min=0.01, sigma_max=20.0)
    assert as_flow(model).t_start == pytest.approx(1 / 21, rel=1e-5)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({}, "the options need img_resolution, a whole number from 1, got None"),
        ({"options": SIZES | {"img_channels": "3"}}, "need img_channels, a whole number from 1, got '3'"),
        ({"options": SIZES, "null": True}, "null needs classes, the option label_dim; got 0"),
        ({"options": SIZES | {"label_dim": "all"}}, "the option label_dim; got 'all'"),
        ({"options": SIZES, "network": "nets"}, "'nets' must be module:Class"),
    ],
)
def test_impossible_declarations_are_refused(said, told):
    with pytest.raises(UserError, match=told):
        Edm(**{"network": "nets.edm:Precond"} | said)


def test_pickles_are_not_read(place):
    (place / "edm.pkl").touch()
    with pytest.raises(UserError, match=r"no weights but edm.pkl, which may run code .*save_file"):
        Edm(network="nets.edm:Precond", options=SIZES).look(place)


def test_weights_of_pfgm_start_from_the_noise_that_is_said(place):
    """PFGM++ keeps EDM's network and sampler, and starts from Student-t noise; Xu et al. 2023."""
    network, _ = adopted(place, options=SIZES)
    law = {"name": "student_t", "degrees": 128.0}
    form = {"name": "edm", "network": "nets.edm:Precond", "options": SIZES}
    said = AdoptedSettings(folder="data/edm", format=form, noise=law)
    found = said.format.options.look(place)
    model = adoption.model_of(said, found, (3, 8, 8), {}, {"folder": place}, SILENT).cpu()
    assert model.config.noise == law
    assert load_config_of(said.model_copy(update={"noise": None}), found, place).noise == "gaussian"
    noise = model.noise.draw("x", randomness.keys_of(0, 0, 3), (3, 8, 8))
    assert not noise.equal(randomness.noises("x", randomness.keys_of(0, 0, 3), (3, 8, 8)))
    levels = sigmas(10)
    times = [1 / (1 + level) for level in levels]
    ours = integrate(as_flow(model), noise, Grid(tuple(times))).x
    torch.testing.assert_close(ours, theirs(network, noise, levels), rtol=1e-3, atol=1e-3)


def load_config_of(said, found, place):
    return adoption.model_of(said, found, (3, 8, 8), {}, {"folder": place}, SILENT).config
