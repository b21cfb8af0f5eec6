"""Exports of adopted networks to diffusers: the other library samples as fewstep does."""

import json
import re
from dataclasses import replace

import pytest
import torch
from foreign.adopted import BETAS, EDM, NETWORKS, adopted
from safetensors.torch import load_file

from fewstep import checkpoint, lora
from fewstep.errors import UserError
from fewstep.exporting import folder
from fewstep.exporting.sampler import ExportedSampler
from fewstep.grids import Grid, uniform
from fewstep.lora import with_lora
from fewstep.lora_settings import LoraSettings
from fewstep.model import ModelConfig, build
from fewstep.timing import with_slow_times

GRIDS = {"flow": Grid((0.0, 0.1, 0.35, 1.0)), "betas": Grid((0.07, 0.35, 0.8, 1.0))}
GRIDS["edm"] = Grid((1 / 81, 0.05, 0.4, 0.9, 1.0))


def exported(model, grid, place, formats=("diffusers",)):
    """Export a model, and return its differences."""
    checkpoint.save_model(place / "model", model)
    return folder.export(place / "model", grid, place / "out", formats=formats)


def run_readme(place, monkeypatch):
    """Run the calls of a README, and return what each names."""
    monkeypatch.chdir(place)
    calls = re.findall(r"```python\n(.*?)```", (place / "README.md").read_text(), re.S)
    names = [{} for _ in calls]
    for call, found in zip(calls, names, strict=True):
        assert "fewstep" not in call
        exec(call, found)
    return names


@pytest.mark.parametrize("declared", [{}, BETAS, BETAS | {"prediction": "v"}], ids=["flow", "noise", "v"])
@pytest.mark.parametrize("name", ["UNet2DModel", "SD3Transformer2DModel"])
def test_the_library_samples_as_fewstep_does(name, declared, tmp_path):
    grid = GRIDS["betas" if declared else "flow"]
    (difference,) = exported(adopted(name, **declared), grid, tmp_path).values()
    assert 0 <= difference <= 1e-5
    told = json.loads((tmp_path / "out/diffusers/sampling.json").read_text())
    ratio = {t: (1 - t) / t for t in grid.times if t}
    assert told["sigmas"] == ([ratio[t] for t in grid.times] if declared else [1.0, 0.9, 0.65])


@pytest.mark.parametrize("steps", [GRIDS["edm"], uniform(1, start=0.1), uniform(18, start=1 / 81)])
@pytest.mark.parametrize("prediction", ["reverse_v", "v"])
def test_a_scheduler_of_edm_follows_a_grid(prediction, steps, tmp_path, monkeypatch):
    model = adopted("UNet2DModel", **EDM | {"prediction": prediction})
    (difference,) = exported(model, steps, tmp_path).values()
    # The library's one step from sigma 9 is sample - (sample - data), of which much cancels.
    assert 0 <= difference <= (2e-5 if len(steps.times) == 2 else 1e-5)
    told = json.loads((tmp_path / "out/diffusers/scheduler/scheduler_config.json").read_text())
    assert (told["_class_name"], told["sigma_data"]) == ("EDMEulerScheduler", 0.8)
    (names,) = run_readme(tmp_path / "out", monkeypatch)
    found = names["scheduler"].sigmas.double()
    torch.testing.assert_close(found, torch.tensor([(1 - t) / t for t in steps.times]).double())
    inputs = {name: names[name] for name in ("noise", *model.config.condition_names)}
    ours = ExportedSampler(model, steps, 1.0)(**inputs)
    torch.testing.assert_close(names["samples"], ours, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", sorted(NETWORKS.keys() - {"FluxTransformer2DModel"}))
def test_the_readme_samples_as_it_stands(name, tmp_path, monkeypatch):
    student = {"grid": GRIDS["flow"], "in_range": True} if name == "UNet2DModel" else {}
    model = adopted(name, **student)
    exported(model, GRIDS["flow"], tmp_path)
    files = {str(file.relative_to(tmp_path / "out")) for file in (tmp_path / "out").rglob("*.*")}
    component = "transformer" if "Transformer" in name else "unet"
    assert files == {
        f"diffusers/{component}/config.json",
        f"diffusers/{component}/diffusion_pytorch_model.safetensors",
        "diffusers/scheduler/scheduler_config.json",
        "diffusers/sampling.json",
        "fewstep.json",
        "README.md",
    }
    (names,) = run_readme(tmp_path / "out", monkeypatch)
    inputs = {name: names[name] for name in ("noise", *model.config.condition_names)}
    ours = ExportedSampler(model, GRIDS["flow"], 1.0)(**inputs)
    torch.testing.assert_close(names["samples"], ours, rtol=1e-4, atol=1e-4)


def test_guidance_that_the_network_takes_is_given_to_it(tmp_path, monkeypatch):
    checkpoint.save_model(tmp_path / "model", adopted("FluxTransformer2DModel"))
    place = tmp_path / "out"
    formats = {"guidance": 3.5, "formats": ["diffusers"]}
    (difference,) = folder.export(tmp_path / "model", GRIDS["flow"], place, **formats).values()
    assert difference <= 1e-5
    assert json.loads((place / "diffusers/sampling.json").read_text())["guidance"] == 3.5
    (names,) = run_readme(place, monkeypatch)
    assert names["sigmas"] == [1.0, 0.9, 0.65]
    assert "guidance_scale=3.5" in (place / "README.md").read_text()


@pytest.mark.parametrize(
    ("declared", "grid", "guidance", "message"),
    [
        (
            {},
            uniform(2, solver="heun"),
            1.0,
            "it takes Euler steps of a velocity at one time, not those",
        ),
        ({}, uniform(2), 2.0, "pipelines guide by themselves; export guidance 1"),
        (BETAS | {"prediction": "data"}, uniform(2, start=0.07), 1.0, "takes no network that predicts data"),
        (
            {"prediction": "velocity"},
            uniform(2),
            1.0,
            "no scheduler has the path linear with the pred",
        ),
        (BETAS | {"path": "cosine"}, uniform(2, start=0.1), 1.0, "no scheduler has the path cosine with"),
        (EDM | {"prediction": "data"}, uniform(2, start=0.1), 1.0, "EDMEulerScheduler takes no network that"),
        (EDM, uniform(2, start=0.5), 1.0, "EDMEulerScheduler starts from a sigma above 1, and the grid from"),
        (EDM | {"time": "sigma"}, uniform(2, start=0.1), 1.0, "no scheduler has the path .*edm"),
    ],
)
def test_what_no_scheduler_follows_is_refused(declared, grid, guidance, message, tmp_path):
    checkpoint.save_model(tmp_path / "model", adopted("UNet2DModel", **{"guidable": True} | declared))
    with pytest.raises(UserError, match=f"{message}.*Take pt2 or onnx"):
        folder.export(tmp_path / "model", grid, tmp_path / "out", guidance=guidance, formats=["diffusers"])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["UNet2DModel", "SD3Transformer2DModel"])
def test_a_network_with_slow_times_is_refused(name, tmp_path):
    """What it has of its own is not in the library's class, which would embed other waves."""
    with pytest.raises(UserError, match=r"its network has slow times, .*Take pt2 or onnx"):
        exported(with_slow_times(adopted(name), seed=0), GRIDS["flow"], tmp_path)
    assert not (tmp_path / "out").exists()


LORA = LoraSettings(rank=2, alpha=3)


def adapter_of(name, targets=None, **declared):
    """Return a student that is an adapter, with what training makes of it."""
    model = with_lora(adopted(name, **declared), replace(LORA, targets=targets), seed=0, base="of the base")
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
    return model


@pytest.mark.parametrize(
    ("name", "formats", "declared"),
    [
        ("UNet2DConditionModel", ("lora_diffusers", "lora_comfyui", "diffusers"), BETAS),
        ("UNet2DConditionModel", ("lora_diffusers", "lora_comfyui"), EDM),
        ("of SDXL", ("lora_diffusers", "lora_comfyui"), {}),
        ("SD3Transformer2DModel", ("lora_diffusers", "diffusers"), {}),
    ],
)
def test_an_adapter_makes_of_its_base_what_the_student_is(name, formats, declared, tmp_path, monkeypatch):
    kind = {"noise": "betas", "reverse_v": "edm"}.get(declared.get("prediction"), "flow")
    model, grid = adapter_of(name, **declared), GRIDS[kind]
    differences = exported(model, grid, tmp_path, formats)
    assert differences.keys() == set(formats)
    assert max(differences.values()) <= 1e-5

    told = json.loads((tmp_path / "out/fewstep.json").read_text())
    assert (told["lora"]["rank"], told["lora_base"]) == (LORA.rank, "of the base")
    assert "an adapter over that with the digest `of the base`" in (tmp_path / "out/README.md").read_text()
    assert (
        f"ManualSigmas of ComfyUI:\n\n    {told['manual_sigmas']}" in (tmp_path / "out/README.md").read_text()
    )
    whole = checkpoint.load_model(tmp_path / "model")
    component = "transformer" if "Transformer" in name else "unet"
    lora.without(model).network.network.save_pretrained(tmp_path / "base")
    readme = tmp_path / "out/README.md"
    readme.write_text(readme.read_text().replace('"yours"', repr(str(tmp_path / "base"))))
    for names in run_readme(tmp_path / "out", monkeypatch):
        inputs = {name: names[name] for name in ("noise", *whole.config.condition_names)}
        torch.testing.assert_close(
            names["samples"], ExportedSampler(whole, grid, 1.0)(**inputs), rtol=1e-4, atol=1e-4
        )
    keys = set(load_file(tmp_path / "out/lora_diffusers/pytorch_lora_weights.safetensors"))
    assert all(re.fullmatch(rf"{component}\..*\.lora_[AB]\.weight", key) for key in keys)


def test_keys_are_those_that_comfyui_knows(tmp_path):
    model = adapter_of(
        "UNet2DConditionModel", ("mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0",)
    )
    exported(model, GRIDS["flow"], tmp_path, ["lora_comfyui"])
    found = load_file(tmp_path / "out/lora_comfyui/lora.safetensors")
    layer = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_out_0"
    assert found.keys() == {f"{layer}.{part}" for part in ("lora_down.weight", "lora_up.weight", "alpha")}
    assert found[f"{layer}.alpha"] == LORA.rank


@pytest.mark.parametrize(
    ("make", "format", "message"),
    [
        (
            lambda: adopted("UNet2DConditionModel"),
            "lora_diffusers",
            "model was trained in all its weights",
        ),
        (
            lambda: adapter_of("UNet2DModel"),
            "lora_diffusers",
            "diffusers loads no adapters into UNet2DModel",
        ),
        (
            lambda: adapter_of("SD3Transformer2DModel"),
            "lora_comfyui",
            "in the names of diffusers; take lora",
        ),
    ],
)
def test_what_is_no_adapter_file_is_refused(make, format, message, tmp_path):
    with pytest.raises(UserError, match=message):
        exported(make(), GRIDS["flow"], tmp_path, [format])
    assert not (tmp_path / "out").exists()


def test_an_adapter_is_exported_as_a_graph_with_it_in_the_weights(tmp_path):
    model = build(ModelConfig(architecture={"name": "mlp", "width": 8}, shape=(2,)), seed=0)
    model = with_lora(model, LORA, seed=0)
    (difference,) = exported(model, uniform(2), tmp_path, ["pt2"]).values()
    assert difference <= 1e-5


def test_a_network_of_fewstep_is_refused(tmp_path):
    model = build(ModelConfig(architecture={"name": "mlp"}, shape=(2,)), seed=0)
    with pytest.raises(UserError, match="the model's architecture is mlp, no network of diffusers"):
        exported(model, uniform(2), tmp_path)
