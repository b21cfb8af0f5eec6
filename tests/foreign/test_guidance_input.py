"""A network that takes guidance as an input shows it in one call: Flux, as its library's pipeline."""

from dataclasses import replace

import pytest
import tiny_networks
import tiny_texts
import torch
from torch import nn

from fewstep import declaration
from fewstep.checkpoint import CONFIG, load_model, save_model
from fewstep.conditions import Table
from fewstep.errors import UserError
from fewstep.flow import as_flow
from fewstep.foreign import library, survey
from fewstep.foreign.assemble import assemble, config_of
from fewstep.foreign.formats.diffusers import Diffusers
from fewstep.grids import Grid, uniform
from fewstep.methods.consistency import Consistency
from fewstep.model import Model, ModelConfig, build
from fewstep.models.diffusers import Diffusers as DiffusersNetwork
from fewstep.models.mlp import Mlp
from fewstep.models.unet import Unet
from fewstep.solvers import integrate
from fewstep.training.needed_inputs import with_needed
from stages.evaluation.listed import nfe_of
from stages.settings.fields import Named
from stages.training.training import student_of

SHAPE = (4, 8, 12)
TIMES = (0.0, 0.1, 0.3, 0.7)


@pytest.fixture(scope="module")
def flux(tmp_path_factory):
    """A pipeline of Flux, its folder, and the model that is adopted from it."""
    pipe, folder = tiny_texts.flux(), tmp_path_factory.mktemp("flux")
    pipe.save_pretrained(folder)
    found = Diffusers().look(folder)
    draw = torch.Generator().manual_seed(1)
    rows = {"text": torch.randn(4, 5, 6, generator=draw), "pooled": torch.randn(4, 6, generator=draw)}
    table = Table(rows={name: values.numpy() for name, values in rows.items()})
    model = assemble(config_of(found, SHAPE, {}, conditions=table.shapes), found, table)
    save_model(folder / "adopted", model)
    return pipe, folder, load_model(folder / "adopted")


@pytest.mark.parametrize("guidance", [1.0, 3.5])
def test_the_sampler_of_the_library(flux, guidance):
    pipe, _, model = flux
    noise, given = torch.randn(4, *SHAPE), model.conditions.table.take(torch.arange(4))
    packed = pipe._pack_latents(noise, 4, *SHAPE)
    shifted = [1 - t for t in TIMES]
    pipe.scheduler = pipe.scheduler.from_config(pipe.scheduler.config, shift=1.0)
    pipe.set_progress_bar_config(disable=True)
    more = {"latents": packed, "height": 8 * 2, "width": 12 * 2, "output_type": "latent", "sigmas": shifted}
    embeds = {"prompt_embeds": given["text"], "pooled_prompt_embeds": given["pooled"]}
    made = pipe(**embeds, **more, num_inference_steps=4, guidance_scale=guidance).images
    expected = pipe._unpack_latents(made, 16, 24, pipe.vae_scale_factor)
    flow = as_flow(model, guidance=guidance)
    with torch.no_grad():
        found = integrate(flow, noise, Grid((*TIMES, 1.0), guidance=guidance), **given)
    assert float((found.x - expected).abs().max() / expected.abs().max()) <= 1e-5
    assert found.nfe == nfe_of(uniform(4, guidance=guidance), model) == 4


def test_a_student_keeps_the_guidance_that_it_was_taught(flux):
    _, folder, model = flux
    x, given = torch.randn(4, *SHAPE), model.conditions.table.take(torch.arange(4))
    student = Model(replace(model.config, baked_guidance=3.5), model.network, model.conditions.table)
    with torch.no_grad():
        torch.testing.assert_close(
            as_flow(student)(x, 0.5, **given), as_flow(model, guidance=3.5)(x, 0.5, **given)
        )
        assert not torch.allclose(
            as_flow(student)(x, 0.5, **given), as_flow(model)(x, 0.5, **given), atol=1e-4
        )
    with pytest.raises(UserError, match=r"was taught guidance 3\.5; ask for 1, not 2"):
        as_flow(student, guidance=2.0)
    save_model(folder / "student", student)
    assert load_model(folder / "student").config == student.config


def test_a_network_that_takes_the_scale_may_be_taught_a_range_as_it_is(flux):
    _, _, model = flux
    method = Consistency(guidance=(1, 4))
    assert with_needed(model, method.needs, seed=0).network is model.network
    x, given = torch.randn(4, *SHAPE), model.conditions.table.take(torch.arange(4))
    scales = torch.tensor([1.0, 2.0, 3.0, 4.0])
    with torch.no_grad():
        each = as_flow(model, guidance=scales)(x, 0.5, **given)
        alone = [as_flow(model, guidance=float(s))(x, 0.5, **given)[n] for n, s in enumerate(scales)]
    torch.testing.assert_close(each, torch.stack(alone))
    assert not torch.allclose(each, as_flow(model)(x, 0.5, **given), atol=1e-4)


def test_a_student_of_another_architecture_takes_no_guidance(flux):
    small = Named("unet", Unet(width=8, multipliers=(1,)))
    student = student_of(flux[2], {"baked_guidance": 3.5}, small, seed=0)
    assert not student.config.guidance_input
    assert student.config.guidance_shown(1.0) == 3.5
    options = flux[2].config.architecture["config"]
    own = Named("diffusers", DiffusersNetwork(network="FluxTransformer2DModel", config=options))
    with pytest.raises(UserError, match="set guidance_input to true, or build it without"):
        student_of(flux[2], {}, own, seed=0)


def test_the_declaration_of_a_guidance_input_is_checked(flux, at_one_time):
    _, folder, model = flux
    seen = survey.look(folder)
    assert seen.rows()["guidance"] == "an input of the network"
    given = model.conditions.table.take(torch.arange(16) % 4)
    assert declaration.check(model, torch.randn(16, *SHAPE), given, seed=0).calls


def test_a_flux_without_it_is_guided_by_two_calls():
    config = {**tiny_networks.flux(guidance_embeds=False).config}
    assert not library.describe("FluxTransformer2DModel", library.own_options(config)).guidance_input


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"in_channels": 384, "out_channels": 64}, "in_channels 384, out_channels 64"),
        ({"patch_size": 2}, "2 needs"),
    ],
)
def test_a_flux_that_needs_more_is_refused(options, told):
    with pytest.raises(UserError, match=told):
        library.describe("FluxTransformer2DModel", options)


def test_latents_that_can_not_be_packed_are_refused(flux):
    config = replace(flux[2].config, shape=(4, 8, 7))
    with pytest.raises(UserError, match="sides are multiples of 2, and not 7; prepare such data"):
        build(config, seed=0)


def test_guidance_as_an_input_that_the_network_lacks_is_refused(monkeypatch):
    mlp = {"name": "mlp", "width": 8}
    monkeypatch.setattr(Mlp, "build", lambda self, shape, classes: nn.Linear(2, 2))
    with pytest.raises(
        UserError, match="model mlp can't be given guidance input: its build does not take it"
    ):
        build(ModelConfig(architecture=mlp, shape=(2,), guidance_input=True), seed=0)
    unet = {"name": "diffusers", "network": "UNet2DModel", "config": {"sample_size": 8}}
    with pytest.raises(
        UserError, match="UNet2DModel takes no guidance as an input; set guidance_input to false"
    ):
        build(ModelConfig(architecture=unet, shape=(3, 8, 8), guidance_input=True), seed=0)
    with pytest.raises(UserError, match="acts on all channels: leave out guidance_channels"):
        ModelConfig(architecture=mlp, shape=(2,), guidance_input=True, guidance_channels=1)


class Scales(nn.Module):
    """Its velocity is the guidance that it is given."""

    def forward(self, x, t, guidance):
        return guidance[:, None].expand_as(x)


def test_networks_of_all_kinds_get_guidance_as_an_input(tmp_path):
    config = ModelConfig(architecture={}, shape=(2,), guidance_input=True)
    model = Model(config, Scales())
    x = torch.zeros(3, 2)
    assert (model(x, torch.zeros(3)) == 1).all()
    other = Model(replace(config, guidance_input=False), Scales())
    with pytest.raises(UserError, match=r"guidance 2\.0 was given to a network that takes none as an input"):
        other(x, torch.zeros(3), guidance=2.0)
    assert (as_flow(model, guidance=2.5)(x, 0.3) == 2.5).all()
    assert (integrate(as_flow(model, guidance=2.5), x, uniform(2, guidance=2.5)).x == 2.5).all()
    save_model(tmp_path, Model(replace(config, guidance_input=False), nn.Linear(1, 1)))
    assert "guidance_input" not in (tmp_path / CONFIG).read_text()
