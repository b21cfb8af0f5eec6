"""Prompts become conditions as the library's pipelines encode them; a model adopted with them draws them."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny_texts as tiny
import torch
import yaml
from jobs import job_in
from tiny_networks import SHAPE

from fewstep import command_line, randomness
from fewstep.checkpoint import load_model, load_table
from fewstep.errors import UserError
from fewstep.flow import as_flow
from fewstep.foreign import text_encoders
from fewstep.foreign.formats.diffusers import Diffusers
from fewstep.shards import Shards, write_shards
from stages import adopt, prepare
from stages.settings import checks
from stages.settings.params import Params

ROOT = Path(__file__).parents[2]
PROMPTS = [
    "a cat",
    "two dogs in 3 rows of grass and more",
    "A Bird ",
] * 4  # more than a batch, and one too long
NAMES = {
    "stable_diffusion": ("text",),
    "sdxl": ("text", "pooled"),
    "stable_diffusion_3": ("text", "pooled"),
    "pixart_alpha": ("text", "text_mask"),
    "pixart_sigma": ("text", "text_mask"),
    "flux": ("text", "pooled"),
}
SIZES = {
    "sdxl": {"sizes": [16, 16, 0, 0, 16, 16]},
    "pixart_alpha": {"resolution": [16, 16], "aspect_ratio": [1]},
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The pipelines and their folders, by name."""
    made = {}
    for name in NAMES:
        made[name] = getattr(tiny, name)(), tmp_path_factory.mktemp(name)
        made[name][0].save_pretrained(made[name][1])
    return made


@torch.no_grad()
def theirs(name, pipe, prompts, **asked):
    """The conditions of prompts and of the negative one, by the library's whole pipeline."""
    if name == "flux":  # it has no negative prompt
        both = (prompts, asked.get("negative_prompt", [""] * len(prompts)))
        made = [pipe.encode_prompt(each, None)[:2] for each in both]
        return tuple({"text": text, "pooled": pooled} for text, pooled in made)
    made = pipe.encode_prompt(prompts, **{"prompt_2": None, "prompt_3": None} if "3" in name else {}, **asked)
    if name == "stable_diffusion":
        return {"text": made[0]}, {"text": made[1]}
    if name.startswith("pixart"):
        return {"text": made[0], "text_mask": made[1]}, {"text": made[2], "text_mask": made[3]}
    return {"text": made[0], "pooled": made[2]}, {"text": made[1], "pooled": made[3]}


@pytest.mark.parametrize("name", NAMES)
def test_conditions_of_prompts_are_those_of_the_library(folders, name):
    pipe, folder = folders[name]
    wanted = Diffusers().look(folder).described.conditions
    encoders = text_encoders.read(folder, size=(16, 16))
    table = text_encoders.table_of(encoders, PROMPTS, wanted, negative="ugly")
    known = {"device": "cpu", "num_images_per_prompt": 1, "do_classifier_free_guidance": True}
    given, null = theirs(name, pipe, PROMPTS, **known)
    _, negative = theirs(name, pipe, PROMPTS, negative_prompt=["ugly"] * len(PROMPTS), **known)
    assert table.texts == tuple(PROMPTS)
    for part in NAMES[name]:
        np.testing.assert_allclose(table.rows[part], given[part], atol=1e-6)
        np.testing.assert_allclose(table.null[part], null[part][0], atol=1e-6)
        np.testing.assert_allclose(table.negative[part], negative[part][0], atol=1e-6)
    for part, size in SIZES.get(name, {}).items():
        assert table.rows[part].tolist() == [size] * len(PROMPTS)
        assert table.null[part].tolist() == size


def test_an_sd3_without_its_t5_has_zeros_for_it(tmp_path):
    pipe = tiny.stable_diffusion_3(with_t5=False)
    pipe.save_pretrained(tmp_path)
    found = text_encoders.read(tmp_path, size=SHAPE[1:], tokens=5).encode(PROMPTS)
    given, _ = theirs("3", pipe, PROMPTS, do_classifier_free_guidance=False, max_sequence_length=5)
    assert found["text"].shape == (len(PROMPTS), 12 + 5, 12)
    torch.testing.assert_close(found, given)


@pytest.fixture
def adopting(tmp_path, monkeypatch, folders, at_one_time):
    """Return what adopts the pipeline of a name with prompts, and the job of that."""
    monkeypatch.setenv("FEWSTEP_DEVICE", "cpu")
    data = torch.randn(24, *SHAPE, generator=torch.Generator().manual_seed(0))
    place = tmp_path / "artifacts/prepare"
    write_shards(place / "held_out", 24, 24, lambda a, b: {"data": data[a:b]}, facts={})
    facts = {"shape": [*SHAPE], "units": None, "classes": 0, "class_shares": [], "class_names": []}
    prompts = tmp_path / "prompts.csv"
    prompts.write_text("id,prompt\n1,a cat\n2,two dogs\n3,<b>a bird</b>\n")

    def adopt_it(name, **said):
        inputs = {"data": place, "folder": folders[name][1], "prompts": prompts}
        job = job_in(tmp_path, "adopt", "sd", inputs=inputs, manifests={"data": {"facts": facts}})
        told = {"file": "data/prompts.csv", "column": "prompt"} | said
        adopt.run(adopt.Config(folder="data/sd", prompts=told, check_samples=16), job)
        return job

    return adopt_it


@pytest.mark.parametrize("name", ["stable_diffusion", "sdxl", "pixart_alpha"])
def test_a_model_adopted_with_prompts_samples_with_guidance(adopting, folders, name):
    job = adopting(name, negative="ugly")
    assert job.facts["prompts"] == 3
    assert (job.out / "samples.png").exists()
    model, (pipe, _) = load_model(job.out), folders[name]
    assert set(model.config.conditions) >= set(NAMES[name])
    keys = randomness.keys_of(0, 0, 4)
    texts = model.conditions.texts("x", keys)
    assert set(texts) == {"a cat", "two dogs", "<b>a bird</b>"}
    drawn, x = model.conditions.drawn("x", keys), torch.randn(4, *SHAPE)
    asked = {"device": "cpu", "num_images_per_prompt": 1, "do_classifier_free_guidance": True}
    given, negative = theirs(name, pipe, texts, negative_prompt=["ugly"] * 4, **asked)
    with torch.no_grad():
        found = as_flow(model, guidance=3.0)(x, 0.5, **drawn)
        along, away = (as_flow(model)(x, 0.5, **drawn | part) for part in (given, negative))
    torch.testing.assert_close(found, away + 3 * (along - away), atol=1e-4, rtol=1e-4)


def test_a_folder_without_what_it_takes_is_refused(tmp_path, folders):
    def changed(**index):
        shutil.rmtree(tmp_path / "sd", ignore_errors=True)
        shutil.copytree(folders["stable_diffusion"][1], tmp_path / "sd")
        file = tmp_path / "sd/model_index.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | index))
        return tmp_path / "sd"

    def refused(told, folder, **more):
        with pytest.raises(UserError, match=told):
            text_encoders.read(folder, size=SHAPE[1:], **more)

    refused("has no model_index.json: prompts are encoded by the text encoders", changed() / "unet")
    refused("has no text_encoder, with which a StableDiff", changed(text_encoder=[None, None]))
    refused(
        "is a BertModel, which fewstep does not know", changed(text_encoder=["transformers", "BertModel"])
    )
    refused("is a CLIPTextModel, which", changed(text_encoder=["os", "CLIPTextModel"]))
    refused("names the pipeline KolorsPipeline, whose prompts can't", changed(_class_name="KolorsPipeline"))
    refused("encodes as many tokens as its tokenizer says; leave tokens", changed(), tokens=5)
    (changed() / "text_encoder/model.safetensors").rename(tmp_path / "sd/text_encoder/pytorch_model.bin")
    refused("no weights but pytorch_model.bin, which may run code", tmp_path / "sd")
    shutil.rmtree(changed() / "tokenizer")
    refused("tokenizer is not there, and model_index.json names it", tmp_path / "sd")
    config = changed() / "text_encoder/config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"num_hidden_layers": 3}))
    refused(r"a CLIPTextModel, lacks .*layers\.2\..* other weights; save", tmp_path / "sd")
    (changed() / "text_encoder/model.safetensors").write_bytes(b"x" * 100)
    refused("can't be read as a CLIPTextModel", tmp_path / "sd")


def test_encoders_of_another_network_are_refused_before_they_encode(folders):
    encoders = text_encoders.read(folders["stable_diffusion"][1], size=SHAPE[1:])
    told = r"takes the condition text of shape \(any, 7\), the encoders of .* make \(12, 6\)"
    with pytest.raises(UserError, match=told):
        text_encoders.table_of(encoders, PROMPTS, {"text": (None, 7)})
    with pytest.raises(
        UserError, match=r"takes the condition pooled of shape \(3,\), the .* make none of that name; take"
    ):
        text_encoders.table_of(encoders, PROMPTS, {"text": (None, 6), "pooled": (3,)})


def test_numbers_that_are_not_finite_are_refused(folders):
    _, folder = folders["stable_diffusion"]
    pipeline = text_encoders.read(folder, size=(16, 16))
    with torch.no_grad():
        list(pipeline.pipe.text_encoder.parameters())[-1].fill_(torch.nan)
    with pytest.raises(UserError, match="make text that is not finite; mend their weights"):
        text_encoders.table_of(pipeline, PROMPTS, {"text": (None, None)})


def test_the_settings_and_the_command_of_the_page_are_those_of_a_pipeline(
    adopting, folders, monkeypatch, capsys
):
    page = (ROOT / "docs/adopt-a-model.md").read_text()
    section = page.partition("## A pipeline with its text encoders\n")[2].partition("\n## ")[0]
    said = yaml.safe_load(re.search(r"```yaml\n(.*?)```", section, re.S)[1])
    raw = yaml.safe_load((ROOT / "params.yaml").read_text())
    checks.check(Params(raw | {"prepare": raw["prepare"] | said["prepare"], "adopt": said["adopt"]}))
    told = {name: said["adopt"]["sd"]["prompts"][name] for name in ("column", "negative")}
    assert load_model(adopting("stable_diffusion", **told).out).conditions.table.negative.keys() == {"text"}
    command = re.search(r"^    fewstep (adopt) (data/sd)$", section, re.M).groups()
    monkeypatch.chdir(folders["stable_diffusion"][1].parent)
    Path("data").mkdir()
    Path("data/sd").symlink_to(folders["stable_diffusion"][1])
    with pytest.raises(SystemExit) as ended:
        command_line.main(list(command))
    assert not ended.value.code
    assert "set prompts.file beside the folder to a file of prompts" in capsys.readouterr().out


@pytest.mark.parametrize("latents", [False, True])
def test_prepare_encodes_what_its_images_show(folders, tmp_path, monkeypatch, latents):
    pipe, folder = folders["sdxl"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FEWSTEP_DEVICE", "cpu")
    draw = np.random.default_rng(0)
    x = draw.integers(0, 256, (80, 16, 16, 3)).astype(np.uint8)
    x = draw.standard_normal((80, *SHAPE)).astype(np.float32) if latents else x
    texts = [f"{number} dogs" for number in range(80)]
    Path("data").mkdir()
    np.savez("data/a.npz", x=x, texts=np.array(texts))
    said = {"codec": {"folder": "data/sd"}, "text_encoders": {"folder": "data/sd", "negative": "ugly"}}
    config = {"source": "a.npz", "source_options": {"latents": True} if latents else {}} | said
    job = job_in(tmp_path, "prepare", inputs={"codec": folder, "text_encoders": folder})
    prepare.run(prepare.Config(**config), job)
    assert {"codec", "text_encoders"} <= prepare.inputs(prepare.Config(**config), None).keys()
    data, table = Shards(job.out / "train").load(), load_table(job.out)
    given, null = theirs("sdxl", pipe, list(table.texts), device="cpu", do_classifier_free_guidance=True)
    assert set(table.texts) < set(texts)
    np.testing.assert_allclose(table.rows["pooled"], given["pooled"], atol=1e-6)
    np.testing.assert_allclose(table.null["pooled"], null["pooled"][0], atol=1e-6)
    assert table.negative.keys() == table.null.keys()
    assert data["sizes"].unique(dim=0).tolist() == [[16, 16, 0, 0, 16, 16]]
    assert job.facts["conditions"] == {"text": [12, 12], "pooled": [3], "sizes": [6]}
    one = job_in(tmp_path / "two", "prepare", inputs={"text_encoders": folder})
    np.savez("data/a.npz", x=x)
    with pytest.raises(UserError, match="encode what images show, and the source does not say it; give"):
        prepare.run(prepare.Config(**config), one)
