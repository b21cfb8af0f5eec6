"""`fewstep adopt`: what it says of a folder, and lines for params.yaml that say the same to the chain."""

import json
import re
import shlex
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml
from foreign import surveying
from foreign.surveying import chosen, prepared, section
from safetensors.torch import save_file
from tiny_networks import SHAPE, dit, pipeline, unet

from fewstep import declaration
from fewstep.checkpoint import save_model
from fewstep.foreign.assemble import config_of
from fewstep.foreign.found import DECLARATION
from fewstep.lazy import lazy_imports
from fewstep.model import ModelConfig, build
from fewstep.models.adm import Adm
from stages.adopt import Config
from stages.settings import yaml_text

with lazy_imports():  # takes seconds, also of the processes that run other tests
    import diffusers

PAGE = (Path(__file__).parents[2] / "docs/adopt-a-model.md").read_text()


def tables():
    return diffusers.DDPMScheduler(beta_schedule="scaled_linear", beta_start=1e-5, beta_end=0.0123456789)


def labelled():
    return unet(num_class_embeds=6)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    return tmp_path


@pytest.fixture
def ask(capsys):
    return partial(surveying.ask, capsys)


@pytest.mark.parametrize(
    ("folder", "network", "scheduler", "component"),
    [
        ("ddpm", unet, tables, "unet"),
        ("on", labelled, lambda: diffusers.DDPMScheduler(prediction_type="v_prediction"), "unet"),
        ("1e5 (best)", dit, lambda: diffusers.FlowMatchEulerDiscreteScheduler(), "transformer"),
    ],
    ids=["without classes", "labels", "classes and a null condition"],
)
def test_the_printed_settings_describe_the_folder(here, ask, folder, network, scheduler, component):
    network = network()
    pipeline(here / "data" / folder, network, scheduler(), component=component)
    said, ended = ask(here / "data" / folder)
    assert ended is None
    [(key, settings)] = section(said)["adopt"].items()
    assert isinstance(key, str)
    found, config = chosen(settings)
    assert config == config_of(found, SHAPE, {})
    assert {settings[name] is not None for name in DECLARATION} == {True}
    weights = sum(weight.numel() for weight in network.state_dict().values())
    assert f"weights:    {weights:,} numbers of type F32\n" in said
    assert f"network:    {type(network).__name__}, in the format diffusers\n" in said
    assert "samples:    (4, 8, 8)\n" in said
    assert f"classes:    {config.classes}\n" in said
    assert ("guidance:   on all channels" in said) == config.guidable
    assert "left out: there is no data in artifacts/prepare; `dvc repro prepare` makes it" in said


def test_what_the_folder_does_not_say_is_left_to_the_user(here, ask):
    unet(sample_size=None).save_pretrained(here / "data/plain")
    said, ended = ask("data/plain")
    assert ended is None
    assert "samples:    (4, any, any)" in said
    assert "prediction: the folder doesn't say" in said
    assert "# path: one of linear, cosine" in said
    assert "left out: set prediction, path, time below" in said
    assert Config(**section(said)["adopt"]["plain"]) == Config(folder="data/plain")


def test_parts_that_are_not_taken_are_noted(here, ask):
    folder = pipeline(here / "elsewhere", labelled().to(torch.bfloat16), tables())
    for part in ("vae", "text_encoder"):
        (folder / part).mkdir()
        (folder / part / "config.json").write_text("{}")
    said, _ = ask(folder)
    assert "note: of the pipeline these parts are not taken: vae\n" in said
    assert "note: there is a text_encoder: set prompts.file beside the folder to a file of prompts" in said
    assert (
        "note: there is a vae: the samples of the network are latents; set prepare.codec.folder to " in said
    )
    assert "note: if the last of its 6 labels is the null condition of guidance, set classes to 5" in said
    assert "note: put the folder at data/elsewhere, where DVC sees it change\n" in said
    assert "numbers of type BF16\n" in said
    assert section(said)["adopt"]["elsewhere"]["folder"] == "data/elsewhere"


def test_a_model_that_contradicts_its_declaration_fails_the_check(here, ask, at_one_time):
    pipeline(here / "data/untrained", unet(), tables())
    prepared(here, {"data": torch.randn(16, *SHAPE)})
    said, ended = ask("data/untrained")
    assert "the check of the declaration failed: its estimate of the data has" in ended
    assert section(said)["adopt"]


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (
            {"data": torch.zeros(16, 1, 8, 8)},
            r"shape \(4, 8, 8\), those in artifacts/prepare have \(1, 8, 8\)",
        ),
        (
            {"data": torch.zeros(16, 4)},
            r"samples of shape \(4, 8, 8\), those in artifacts/prepare have \(4,\)",
        ),
        ({"data": torch.zeros(16, *SHAPE)}, "needs labels of 6 classes, and the data has none; prepare data"),
        (
            {"data": torch.zeros(16, *SHAPE), "label": torch.arange(16)},
            "the data has the label 15, and the network knows classes 0 to 5; prepare",
        ),
    ],
    ids=["channels", "points", "no labels", "more labels"],
)
def test_data_that_does_not_fit_leaves_the_check_out(here, ask, data, told):
    pipeline(here / "data/labelled", labelled(), tables())
    prepared(here, data)
    said, ended = ask("data/labelled")
    assert ended is None
    assert re.search(f"note: the check of the declaration is left out: .*{told}", said)


def trained():
    """A small network that learnt -1 and 1, each half of the time."""
    model = build(ModelConfig(architecture={"name": "mlp", "width": 32, "depth": 2}, shape=(4,)), seed=0)
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    draw = torch.Generator().manual_seed(0)
    for _ in range(200):
        data = (torch.randint(2, (128, 1), generator=draw) * 2.0 - 1).expand(-1, 4)
        noise, t = torch.randn(128, 4, generator=draw), torch.rand(128, generator=draw)
        x = t[:, None] * data + (1 - t[:, None]) * noise
        optimiser.zero_grad()
        (model(x, t) - (data - noise)).square().mean().backward()
        optimiser.step()
    return model.eval()


def test_a_model_directory_is_for_pretrain(here, ask):
    save_model(here / "data/mine", trained())
    side = torch.randint(2, (128, 1), generator=torch.Generator().manual_seed(1)) * 2.0 - 1
    prepared(here, {"data": side.expand(-1, 4) + 0.01 * torch.randn(128, 4)})
    said, ended = ask("data/mine")
    assert ended is None
    assert "network:    mlp, a model directory of fewstep\n" in said
    assert re.search(r"note: its data estimate has 0\.\d+ times the error of a Gaussian fit", said)
    assert section(said) == {"pretrain": {"mine": {"checkpoint": "data/mine"}}}


def test_numbers_are_written_whole_and_for_both_versions_of_yaml():
    value = {"name": "table", "a": 1e-5, "b": 0.0123456789, "c": 999.0, "d": True, "e": 1.25e-7}
    assert yaml_text.read(declaration.plain(value), "it") == value


def pickled(folder):
    (folder / "unet/diffusion_pytorch_model.safetensors").rename(folder / "unet/model.bin")


def without_weights(folder):
    (folder / "unet/diffusion_pytorch_model.safetensors").unlink()


def of_class(name):
    def change(folder):
        file = folder / "unet/config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"_class_name": name}))

    return change


def of_other_size(folder):
    unet(block_out_channels=(4, 8)).save_config(folder / "unet")


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (pickled, "no weights but model.bin, which may run code when it is read; load"),
        (without_weights, "has no weights: no file that ends in .safetensors; load"),
        (of_class("Unet3000"), "has no network class 'Unet3000'; install the version"),
        (of_class("SanaTransformer2DModel"), "is conditioned on text, and there is no adapter for it"),
        (of_other_size, "options describe another network than the weights"),
    ],
)
def test_a_folder_that_can_not_be_taken_is_one_message(here, ask, spoil, told):
    folder = pipeline(here / "data/spoilt", unet(), tables())
    spoil(folder)
    said, ended = ask(folder)
    assert told in ended
    assert not said


def test_no_folder_and_an_empty_one(here, ask):
    assert ask("data/none")[1].startswith("data/none is no folder; give the one that save_pretrained wrote")
    assert "data has no config.json: it is no folder that diffusers wrote; for weights" in ask("data")[1]


def test_the_page_runs_as_written(here, ask):
    pipeline(here / "data/ddpm", unet(), tables())
    blocks = [
        yaml.safe_load(text)["adopt"] for text in re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.S | re.M)
    ]
    whole, network_alone, of_prompts, *others = (next(iter(block.values())) for block in blocks)
    assert chosen(whole)[1].prediction == "noise"
    (here / "data/ddpm/scheduler/scheduler_config.json").unlink()
    found, config = chosen(network_alone)
    assert not found.declared
    assert config.path["beta_end"] == 0.012
    assert [Config(**each).format.name for each in others] == ["state_dict", "sit", "edm", "torchcfm"]
    assert Config(**of_prompts).prompts.file.startswith("data/")
    [of_a_pipeline, command, with_a_format] = re.findall(r"^    fewstep (adopt .*)$", PAGE, re.M)
    assert of_a_pipeline.split()[1:] == [of_prompts["folder"]]
    said, ended = ask(*command.split()[1:])
    assert ended is None
    assert "adopt:\n  ddpm:\n" in said
    network = Adm(width=64, attention=(1,), head_channels=64).build(SHAPE, 0)
    (here / "data/cfm").mkdir()
    save_file(network.state_dict(), here / "data/cfm/model.safetensors")
    said, ended = ask(*shlex.split(with_a_format)[1:])
    assert ended is None
    assert section(said)["adopt"]["cfm"]["format"] == others[-1]["format"]
