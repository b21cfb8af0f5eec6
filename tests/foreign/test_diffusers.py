"""Networks of diffusers, adopted from folders that it wrote: fewstep's Euler is the library's own sampler."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_networks import SHAPE, dit, pipeline, unet

from fewstep.checkpoint import load_model, save_model
from fewstep.errors import UserError
from fewstep.flow import as_flow
from fewstep.foreign import schedulers
from fewstep.foreign.assemble import assemble, config_of
from fewstep.foreign.formats.diffusers import Diffusers
from fewstep.grids import Grid
from fewstep.lazy import lazy_imports
from fewstep.solvers import integrate

with lazy_imports():  # takes seconds, also of the processes that run other tests
    import diffusers

STEPS = 32
SCALED = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}


def adopted(folder, shape=SHAPE, **declared):
    """Adopt a folder, and read the model directory that comes of it."""
    found = Diffusers().look(folder)
    save_model(folder / "adopted", assemble(config_of(found, shape, declared), found))
    return load_model(folder / "adopted")


@torch.no_grad()
def theirs(scheduler, network, noise, label=None, *, steps=STEPS):
    """Sample as the pipelines of the library do."""
    network.eval()
    scheduler.set_timesteps(steps)
    x = noise * getattr(scheduler, "init_noise_sigma", 1.0)
    for t in scheduler.timesteps:
        asked = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        output = network(asked, t.expand(len(x)), class_labels=label, return_dict=False)[0]
        x = scheduler.step(output[:, : x.shape[1]], t, x, return_dict=False)[0]
    return x


@torch.no_grad()
def ours(model, noise, times, *, solver="euler", **conditions):
    flow = as_flow(model)
    inner = [min(max(t, flow.t_start), flow.t_end) for t in times]
    return integrate(flow, noise, Grid((*inner, 1.0), solver=solver), **conditions).x


def assert_equal(found, expected):
    assert float((found - expected).abs().max() / expected.abs().max()) <= 1e-5


@pytest.mark.parametrize(
    "options",
    [
        {"prediction_type": "epsilon"},
        SCALED | {"prediction_type": "v_prediction"},
        SCALED | {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True},
        {"prediction_type": "sample"},
    ],
    ids=["noise, linear", "v, scaled_linear", "v, zero SNR", "data, linear"],
)
def test_euler_of_the_library(tmp_path, options):
    scheduler, network = diffusers.EulerDiscreteScheduler(**options, timestep_spacing="trailing"), unet()
    model = adopted(pipeline(tmp_path, network, scheduler))
    noise = torch.randn(4, *SHAPE)
    expected = theirs(scheduler, network, noise)
    assert_equal(ours(model, noise, [1 / (1 + float(s)) for s in scheduler.sigmas[:-1]]), expected)


@pytest.mark.parametrize("steps", [18, STEPS])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("EDMEulerScheduler", {}),
        (
            "EDMEulerScheduler",
            {"prediction_type": "v_prediction", "sigma_data": 1.0, "sigma_max": 120.0}
            | {"sigma_schedule": "exponential"},
        ),
        ("EDMEulerScheduler", {"prediction_type": "v_prediction", "sigma_data": 0.8, "sigma_min": 0.01}),
        ("EDMDPMSolverMultistepScheduler", {"solver_order": 1}),
    ],
    ids=["epsilon", "v of CosXL", "v", "DPM-Solver++ of order 1"],
)
def test_edm_of_the_library(tmp_path, name, options, steps):
    scheduler, network = getattr(diffusers, name)(**options), unet()
    model = adopted(pipeline(tmp_path, network, scheduler))
    noise = torch.randn(4, *SHAPE)
    expected = theirs(scheduler, network, noise, steps=steps)
    largest = scheduler.config.sigma_max
    size = scheduler.init_noise_sigma / largest  # they begin with a little more, sqrt(sigma^2 + 1)
    assert_equal(ours(model, noise * size, [1 / (1 + float(s)) for s in scheduler.sigmas[:-1]]), expected)


@pytest.mark.parametrize("order", [2, 3])
def test_dpm_solver_on_the_path_of_edm_comes_to_where_the_flow_ends(tmp_path, order):
    scheduler, network = diffusers.EDMDPMSolverMultistepScheduler(solver_order=order), unet()
    model = adopted(pipeline(tmp_path, network, scheduler))
    noise = torch.randn(4, *SHAPE)
    few, many = (theirs(scheduler, network, noise, steps=steps) for steps in (32, 128))
    size = scheduler.init_noise_sigma / scheduler.config.sigma_max
    times = [1 / (1 + float(s)) for s in scheduler.sigmas[:-1]]
    end = ours(model, noise * size, times[::4], solver="rk4")  # which is off by 2e-5
    first, last = (float((x - end).abs().max() / end.abs().max()) for x in (few, many))
    assert last < min(first / 4, 2e-3)  # 128 Euler steps are off by 2e-2


def test_ddim_of_the_library(tmp_path):
    scheduler, network = diffusers.DDIMScheduler(clip_sample=False, timestep_spacing="trailing"), unet()
    model = adopted(pipeline(tmp_path, network, scheduler))
    noise = torch.randn(4, *SHAPE)
    expected = theirs(scheduler, network, noise, steps=50)  # DDIM goes back by whole parts of 1000
    bar = scheduler.alphas_cumprod[scheduler.timesteps].double()
    times = (bar.sqrt() / (bar.sqrt() + (1 - bar).sqrt())).tolist()
    size = float(
        (1 - bar[0]).sqrt() + bar[0].sqrt()
    )  # DDIM begins with noise, fewstep with b / (a + b) of it
    assert_equal(ours(model, noise / (size * (1 - times[0])), times), expected)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_matching_of_the_library_by_class_labels(tmp_path, shift):
    scheduler, network = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift), dit()
    model = adopted(pipeline(tmp_path, network, scheduler, component="transformer"))
    assert (model.config.classes, model.config.guidable) == (5, True)
    noise, label = torch.randn(4, *SHAPE), torch.tensor([0, 3, 4, 5])
    expected = theirs(scheduler, network, noise, label)
    assert_equal(ours(model, noise, [1 - float(s) for s in scheduler.sigmas[:-1]], label=label), expected)


def test_guidance_acts_on_the_first_channels_alone(tmp_path):
    network, w = dit(), 4.0
    folder = pipeline(tmp_path, network, diffusers.FlowMatchEulerDiscreteScheduler(), component="transformer")
    model = adopted(folder)
    model.config.__dict__["guidance_channels"] = 3
    x, label, t = torch.randn(4, *SHAPE), torch.tensor([0, 1, 2, 3]), torch.full((4,), 400.0)
    with torch.no_grad():
        network.eval()
        by_label, null = (
            -network(x, timestep=t, class_labels=each, return_dict=False)[0][:, :4]
            for each in (label, torch.full_like(label, 5))
        )
        guided = as_flow(model, guidance=w)(x, 0.6, label=label)
    torch.testing.assert_close(guided[:, :3], (null + w * (by_label - null))[:, :3], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(guided[:, 3:], by_label[:, 3:], rtol=1e-4, atol=1e-5)


def test_labels_of_a_unet_end_with_a_null_condition_if_that_is_said(tmp_path):
    folder = pipeline(tmp_path, unet(num_class_embeds=6), diffusers.DDPMScheduler())
    found = Diffusers().look(folder)
    plain, guidable = (config_of(found, SHAPE, {}, classes=number) for number in (None, 5))
    assert (plain.classes, plain.guidable) == (6, False)
    assert (guidable.classes, guidable.guidable) == (5, True)
    with pytest.raises(UserError, match="has 6 or 5 classes, not 10; set classes to that"):
        assemble(config_of(found, SHAPE, {}, classes=10), found)


def test_a_diffusers_network_is_trained_in_evaluation_mode(tmp_path):
    folder = pipeline(tmp_path, dit(), diffusers.FlowMatchEulerDiscreteScheduler(), component="transformer")
    model = adopted(folder).train()
    assert model.training
    assert not any(module.training for module in model.network.modules())
    x, t, label = torch.randn(64, *SHAPE), torch.full((64,), 0.5), torch.zeros(64, dtype=torch.long)
    torch.testing.assert_close(model(x, t, label=label), model(x, t, label=label), rtol=0, atol=0)


def test_weights_keep_their_names_and_may_be_sharded_and_in_bfloat16(tmp_path):
    network = unet().to(torch.bfloat16)
    scheduler = diffusers.DDPMScheduler()
    whole = adopted(pipeline(tmp_path / "whole", network, scheduler))
    parts = adopted(pipeline(tmp_path / "parts", network, scheduler, max_shard_size="20KB"))
    assert len(list((tmp_path / "parts/unet").glob("*.safetensors"))) > 1
    for name, tensor in network.state_dict().items():
        for model in (whole, parts):
            torch.testing.assert_close(model.network.state_dict()[f"network.{name}"], tensor.float())


def edited(folder, **changes):
    """Change the config of a folder's network."""
    file = folder / "unet/config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    return folder


def renamed(folder, name):
    """Give the weights of a folder another name, under which they might be pickled."""
    (folder / "unet/diffusion_pytorch_model.safetensors").rename(folder / "unet" / name)
    return folder


def without_a_weight(folder):
    file = folder / "unet/diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    save_file({name: tensor for name, tensor in weights.items() if name != "conv_in.bias"}, file)
    return folder


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (
            lambda f: renamed(f, "notes.txt"),
            "has no weights: no file that ends in .safetensors; load the model",
        ),
        (
            lambda f: renamed(f, "model.bin"),
            "no weights but model.bin, which may run code when it is read; load",
        ),
        (without_a_weight, "lacks conv_in.bias of the network"),
        (lambda f: edited(f, layers_per_block=2), "ptions describe another network than the w"),
        (lambda f: edited(f, _class_name="Unet3000"), "has no network class 'Unet3000'; install the version"),
        (
            lambda f: edited(f, _class_name="AutoencoderKL"),
            "no adapter for AutoencoderKL .*unet2dmodel.*write one as the file",
        ),
        (lambda f: edited(f, wings=2), "has no argument 'wings'; its config is of .*Install that version"),
        (
            lambda f: edited(f, in_channels=3),
            r"samples of shape \(3, 8, 8\), the data has \(4, 8, 8\); prepare",
        ),
        (lambda f: edited(f, sample_size=16), r"samples of shape \(4, 16, 16\), the data has \(4, 8, 8\)"),
        (lambda f: edited(f, down_block_types=["Down"]), "diffusers can't build UNet2DModel from its config"),
        (lambda f: (f / "unet/config.json").unlink() or f, "is a pipeline without transformer or unet; name"),
        (lambda f: (f / "unet/config.json").write_text("{") and f, "config.json is no JSON"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_folder_that_can_not_be_taken_is_refused_with_the_remedy(tmp_path, spoil, told):
    folder = spoil(pipeline(tmp_path, unet(), diffusers.DDPMScheduler()))
    with pytest.raises(UserError, match=told):
        adopted(folder)


def test_a_model_of_text_without_an_adapter_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "SanaTransformer2DModel"}))
    with pytest.raises(
        UserError, match="SanaTransformer2DModel is conditioned on text, and there is no adapter"
    ):
        Diffusers().look(tmp_path)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"num_train_timesteps": "many"}, "num_train_timesteps must be of type int, got 'many'"),
        ({"num_train_timesteps": 1}, "num_train_timesteps must be 2 or more, got 1"),
        ({"beta_end": [0.1]}, "beta_end must be of type float, got [0.1]"),
        ({"prediction_type": ["epsilon"]}, "prediction_type must be of type str, got ['epsilon']"),
        ({"sigma_max": "high"}, "sigma_max must be of type float, got 'high'"),
        (
            {"_class_name": "EDMEulerScheduler", "prediction_type": "sample"},
            "EDMEulerScheduler has the prediction_type 'sample'; fewstep knows of it epsilon, v_prediction",
        ),
        ({"_class_name": 7}, "_class_name must be of type str, got 7"),
    ],
)
def test_a_scheduler_with_values_that_can_not_be_is_reported(wrong, told):
    with pytest.raises(UserError, match=re.escape(told)):
        schedulers.declared({"_class_name": "DDPMScheduler", "beta_schedule": "linear"} | wrong)


def test_facts_missing_in_a_scheduler_must_be_declared(tmp_path):
    unet().save_pretrained(tmp_path)
    with pytest.raises(UserError, match="does not say the prediction and the path and the time"):
        adopted(tmp_path)
    said = {"prediction": "noise", "path": {"name": "table"}, "time": "1-t", "time_scale": 999.0}
    assert adopted(tmp_path, **said).config.prediction == "noise"


@pytest.mark.parametrize(
    ("scheduler", "told"),
    [
        (
            lambda: diffusers.KarrasVeScheduler(),
            "KarrasVeScheduler is no scheduler of a flow, a table of betas or EDM",
        ),
        (lambda: diffusers.DDPMScheduler(trained_betas=[0.1, 0.2]), "has its own trained_betas"),
    ],
)
def test_a_scheduler_that_says_nothing_usable_is_reported(tmp_path, scheduler, told):
    found = Diffusers().look(pipeline(tmp_path, unet(), scheduler()))
    assert not found.declared
    assert told in found.notes[0]
