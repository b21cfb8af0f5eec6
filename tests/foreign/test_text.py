"""Networks of diffusers that are given text and images: fewstep's Euler is the library's own sampler."""

import numpy as np
import pytest
import torch
from jobs import job_in
from tiny_networks import SHAPE, pipeline, pixart, sd3, text_unet

from fewstep import command_line
from fewstep.checkpoint import CONDITIONS, load_model, save_model
from fewstep.conditions import Table
from fewstep.draws import draws
from fewstep.errors import UserError
from fewstep.flow import as_flow
from fewstep.foreign import library, survey
from fewstep.foreign.assemble import assemble, config_of
from fewstep.foreign.formats.diffusers import Diffusers
from fewstep.grids import Grid
from fewstep.lazy import lazy_imports
from fewstep.model import Model
from fewstep.noises import GAUSSIAN
from fewstep.shards import write_shards
from fewstep.solvers import integrate
from stages import adopt

with lazy_imports():  # takes seconds, also of the processes that run other tests
    import diffusers

SCHEDULER = {"timestep_spacing": "trailing", "beta_schedule": "scaled_linear", "beta_start": 0.00085}
SCHEDULER |= {"beta_end": 0.012}
SDXL = {"addition_embed_type": "text_time", "addition_time_embed_dim": 4}
SDXL |= {"projection_class_embeddings_input_dim": 3 + 6 * 4}
TEXT = {"text": (5, 6)}
MASKED = TEXT | {"text_mask": (5,)}
LARGE = {"use_additional_conditions": True, "num_attention_heads": 3, "cross_attention_dim": 12}
SIZED = MASKED | {"resolution": (2,), "aspect_ratio": (1,)}
CASES = {
    "text": (text_unet, {}, TEXT),
    "masked text": (text_unet, {}, MASKED),
    "SDXL": (text_unet, SDXL, TEXT | {"pooled": (3,), "sizes": (6,)}),
    "inpainting": (text_unet, {"in_channels": 9}, TEXT | {"mask": (1, 8, 8), "masked_image": (4, 8, 8)}),
    "SD3": (sd3, {}, TEXT | {"pooled": (3,)}),
    "PixArt": (pixart, {}, MASKED),
    "large PixArt": (pixart, LARGE, SIZED),
}


def conditions_of(shapes, seed):
    draw = torch.Generator().manual_seed(seed)
    found = {name: torch.randn(4, *shape, generator=draw) for name, shape in shapes.items()}
    return found | ({"text_mask": (found["text_mask"] > 0).float()} if "text_mask" in found else {})


def table_of(rows, null):
    """A table with these rows, and the first of `null` in place of none."""
    arrays = {name: values.numpy() for name, values in rows.items()}
    return Table(rows=arrays, null={name: values[0].numpy() for name, values in null.items()})


def adopted(folder, rows, null, **changed):
    """Adopt a folder with a table of conditions, and read the model directory that comes of it."""
    found, shapes = Diffusers().look(folder), {name: values.shape[1:] for name, values in rows.items()}
    model = assemble(config_of(found, SHAPE, changed, conditions=shapes), found)
    save_model(folder / "adopted", Model(model.config, model.network, table_of(rows, null)))
    return load_model(folder / "adopted")


@torch.no_grad()
def theirs(scheduler, network, noise, given, null, guidance):
    """Sample as the pipelines of the library do: without and with the conditions, in one batch."""
    network.eval()
    scheduler.set_timesteps(8)
    both = {name: torch.cat([null[name][:1].expand_as(values), values]) for name, values in given.items()}
    more = {"encoder_hidden_states": both["text"], "return_dict": False}
    if isinstance(network, diffusers.SD3Transformer2DModel):
        more["pooled_projections"] = both["pooled"]
    elif isinstance(network, diffusers.PixArtTransformer2DModel):
        sizes = {name: both.get(name) for name in ("resolution", "aspect_ratio")}
        more |= {"encoder_attention_mask": both["text_mask"], "added_cond_kwargs": sizes}
    else:
        added = {"text_embeds": both["pooled"], "time_ids": both["sizes"]} if "pooled" in both else None
        more |= {"encoder_attention_mask": both.get("text_mask"), "added_cond_kwargs": added}
    x = noise * getattr(scheduler, "init_noise_sigma", 1.0)
    for t in scheduler.timesteps:
        asked = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        asked = torch.cat([asked] * 2)
        if "mask" in both:
            asked = torch.cat([asked, both["mask"], both["masked_image"]], dim=1)
        output = network(asked, timestep=t.expand(len(asked)), **more)[0]
        without, along = output[:, : x.shape[1]].chunk(2)
        x = scheduler.step(without + guidance * (along - without), t, x, return_dict=False)[0]
    return x


@pytest.mark.parametrize("case", CASES)
def test_the_guided_sampler_of_the_library(tmp_path, case):
    made, options, shapes = CASES[case]
    network = made(**options)
    is_flow = case == "SD3"
    scheduler = (
        diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
        if is_flow
        else diffusers.EulerDiscreteScheduler(**SCHEDULER)
    )
    given, null = conditions_of(shapes, 1), conditions_of(shapes, 2)
    model = adopted(pipeline(tmp_path, network, scheduler), given, null)
    assert model.config.guidable
    noise = torch.randn(4, *SHAPE)
    expected = theirs(scheduler, network, noise, given, null, 4.0)
    flow = as_flow(model, guidance=4.0)
    sigmas = scheduler.sigmas[:-1].tolist()
    times = [1 - sigma if is_flow else 1 / (1 + sigma) for sigma in sigmas]
    inner = [min(max(t, flow.t_start), flow.t_end) for t in times]
    with torch.no_grad():
        found = integrate(flow, noise, Grid((*inner, 1.0), guidance=4.0), **given).x
    assert float((found - expected).abs().max() / expected.abs().max()) <= 1e-5


@pytest.mark.parametrize(
    ("options", "there", "told"),
    [
        ({}, {}, r"takes the condition text of shape \(any, 6\), the data has none of that name; prepare"),
        ({}, {"text": (5, 7)}, r"takes the condition text of shape \(any, 6\), the data has \(5, 7\)"),
        (SDXL, TEXT, r"takes the condition pooled of shape \(3,\), the data has none of that name; prepare"),
        ({"in_channels": 9}, TEXT | {"mask": (1, 8, 8)}, "takes images of 5 channels .* the data has 1"),
    ],
)
def test_data_without_its_conditions_is_refused(tmp_path, options, there, told):
    found = Diffusers().look(pipeline(tmp_path, text_unet(**options), diffusers.DDPMScheduler()))
    with pytest.raises(UserError, match=told):
        config_of(found, SHAPE, {}, conditions=there)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (
            {"time_cond_proj_dim": 4},
            "UNet2DConditionModel with time_cond_proj_dim 4 needs what fewstep can't",
        ),
        ({"cross_attention_dim": (6, 8)}, r"cross_attention_dim \(6, 8\)"),
        ({"addition_embed_type": "image"}, "addition_embed_type 'image'"),
    ],
)
def test_a_network_that_needs_more_is_refused(options, told):
    with pytest.raises(UserError, match=told):
        library.describe("UNet2DConditionModel", options)


@pytest.fixture
def prepared(tmp_path):
    """What prepare leaves of samples with a text, and nothing else that the network does not take."""
    draw = np.random.default_rng(0)
    data, text = (draw.standard_normal((24, *shape)).astype("float32") for shape in (SHAPE, (5, 6)))
    fields = {"data": torch.from_numpy(data), "text": torch.from_numpy(text), "extra": torch.zeros(24, 2)}
    place = tmp_path / "artifacts/prepare"
    write_shards(place / "held_out", 24, 24, lambda a, b: {n: f[a:b] for n, f in fields.items()}, facts={})
    Table(rows={"text": text, "extra": np.zeros((24, 2), np.float32)}).save(place / CONDITIONS)
    facts = {"shape": [*SHAPE], "units": None, "classes": 0, "class_shares": [], "class_names": []}
    return place, facts | {"conditions": {"text": [5, 6], "extra": [2]}}


@pytest.mark.usefixtures("at_one_time")
def test_the_stage_gives_it_the_conditions_of_the_data(tmp_path, prepared, monkeypatch):
    monkeypatch.setenv("FEWSTEP_DEVICE", "cpu")
    place, facts = prepared
    folder = pipeline(tmp_path / "sd", text_unet(), diffusers.EulerDiscreteScheduler(**SCHEDULER))
    inputs = {"data": place, "folder": folder}
    job = job_in(tmp_path, "adopt", "sd", inputs=inputs, manifests={"data": {"facts": facts}})
    adopt.run(adopt.Config(folder="data/sd", check_samples=16), job)
    model = load_model(job.out)
    assert model.config.conditions == {"text": (5, 6)}
    assert len(model.conditions.table) == 24
    assert {"ratio", "problems"} <= job.facts.keys()
    ((_, given),) = draws("x", 0, range(3), shape=SHAPE, law=GAUSSIAN, conditions=model.conditions, batch=3)
    assert given.keys() == {"text"}


@pytest.mark.usefixtures("at_one_time")
def test_the_command_tells_its_conditions_and_checks_it(tmp_path, prepared, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folder = pipeline(tmp_path / "data/sd", text_unet(), diffusers.EulerDiscreteScheduler(**SCHEDULER))
    with pytest.raises(SystemExit):
        command_line.main(["adopt", str(folder)])
    said = capsys.readouterr().out
    assert "network:    UNet2DConditionModel, in the format diffusers\n" in said
    assert "conditions: text (any, 6), perhaps text_mask\n" in said
    assert "guidance:   on all channels\n" in said
    assert "is left out" not in said


@pytest.mark.usefixtures("at_one_time")
def test_a_network_for_inpainting_is_checked_with_the_images_of_the_data(tmp_path):
    made, options, shapes = CASES["inpainting"]
    scheduler = diffusers.EulerDiscreteScheduler(**SCHEDULER)
    folder = pipeline(tmp_path / "net", made(**options), scheduler)
    draw = torch.Generator().manual_seed(0)
    fields = {n: torch.randn(32, *shape, generator=draw) for n, shape in {"data": SHAPE, **shapes}.items()}
    write_shards(tmp_path / "held_out", 32, 32, lambda a, b: {n: f[a:b] for n, f in fields.items()}, facts={})
    verdict = survey.check(survey.look(folder), tmp_path)
    assert not isinstance(verdict, str)
    assert verdict.calls


def test_a_config_without_the_sizes_of_its_conditions_is_refused():
    with pytest.raises(UserError, match="with addition_time_embed_dim None needs what fewstep can't supply"):
        library.describe("UNet2DConditionModel", {"addition_embed_type": "text_time"})
