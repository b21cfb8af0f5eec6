"""Exports of whole pipelines of diffusers, which its own class loads and samples from prompts."""

import json
import re
import shutil
from dataclasses import replace

import pytest
import torch
from foreign import tiny_texts
from foreign.tiny_networks import sd3, text_unet

from fewstep import checkpoint, command_line
from fewstep.errors import UserError
from fewstep.exporting import folder
from fewstep.exporting.sampler import ExportedSampler
from fewstep.foreign import text_encoders
from fewstep.foreign.formats.diffusers import Diffusers
from fewstep.grids import Grid
from fewstep.model import ModelConfig, build

PROMPTS = ["a cat", "a dog on a mat", "the sun"]
FLOW, NOISE = Grid((0.0, 0.1, 0.35, 1.0)), Grid((0.07, 0.35, 0.8, 1.0))
PIPELINES = {
    "stable_diffusion_3": FLOW,
    "stable_diffusion": NOISE,
    "sdxl": NOISE,
    "flux": FLOW,
    "pixart_alpha": NOISE,
    "pixart_sigma": NOISE,
}


def adopt(source, network, shape=(4, 8, 8)):
    """Return the model of a pipeline's folder and network, with conditions of prompts."""
    found = Diffusers().look(source)
    shape = found.described.shape(shape)
    encoder = text_encoders.read(source, size=text_encoders.pixels(source, shape[1:]))
    made = {name: tuple(value.shape[1:]) for name, value in encoder.without().items()}
    table = text_encoders.table_of(encoder, PROMPTS, found.described.taken(made))
    config = ModelConfig(
        architecture=found.architecture,
        shape=shape,
        conditions=found.described.taken(made),
        guidance_input=found.described.guidance_input,
        **found.declared,
    )
    model = build(config, seed=0, table=table.only(config.conditions))
    model.network.network.load_state_dict(network.state_dict())
    return model.eval()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Make, once of each pipeline, its folder as diffusers writes it, and the model of its network."""
    places = {}

    def make(name):
        if name not in places:
            place = places[name] = tmp_path_factory.mktemp(name)
            pipe = getattr(tiny_texts, name)()
            pipe.save_pretrained(place / "source")
            network = pipe.transformer if hasattr(pipe, "transformer") else pipe.unet
            with torch.no_grad():  # the student is not its teacher
                for weight in network.parameters():
                    weight.mul_(1.01)
            checkpoint.save_model(place / "model", adopt(place / "source", network))
        return places[name]

    return make


def exported(place, out, grid, source=None, **options):
    """Export a model with a pipeline, and return the difference."""
    asked = {"name": "pipeline", "folder": str(source or place / "source")}
    (difference,) = folder.export(place / "model", grid, out, formats=[asked], **options).values()
    return difference


@pytest.mark.parametrize("name", PIPELINES)
def test_the_pipeline_samples_as_fewstep_does(name, made, tmp_path):
    guidance = 3.5 if name == "flux" else 1.0
    difference = exported(made(name), tmp_path / "out", PIPELINES[name], guidance=guidance)
    assert 0 < difference <= 1e-5


@pytest.mark.parametrize(
    ("scheduler", "options"),
    [
        ("EDMEulerScheduler", {}),
        ("EulerDiscreteScheduler", {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}),
    ],
)
def test_pipelines_of_one_class_may_have_other_schedulers(scheduler, options, tmp_path, monkeypatch):
    pipe = tiny_texts.sdxl()
    pipe.scheduler = getattr(tiny_texts.diffusers, scheduler)(**options)
    pipe.save_pretrained(tmp_path / "source")
    checkpoint.save_model(tmp_path / "model", adopt(tmp_path / "source", pipe.unet))
    assert 0 < exported(tmp_path, tmp_path / "out", Grid((1 / 81, 0.05, 0.4, 0.9, 1.0))) <= 1e-5
    monkeypatch.chdir(tmp_path / "out")
    (call,) = re.findall(r"```python\n(.*?)```", (tmp_path / "out/README.md").read_text(), re.S)
    exec(call, names := {})
    assert names["images"][0].size == (16, 16)
    assert type(names["pipe"].scheduler).__name__ == scheduler


@pytest.fixture(scope="module", params=["stable_diffusion_3", "stable_diffusion"])
def whole(request, made, tmp_path_factory):
    """The pipeline's own folder, the model, the exported folder, and its grid."""
    place, grid = made(request.param), PIPELINES[request.param]
    out = tmp_path_factory.mktemp("out") / "out"
    words = ["export", place / "model", out, "--pipeline", place / "source", "--grid", place / "grids.json"]
    grids = {"grids": {str(grid.steps): {"times": grid.times}}}
    (place / "grids.json").write_text(json.dumps(grids))
    with pytest.raises(SystemExit) as ended:
        command_line.main([str(word) for word in words])
    assert not ended.value.code
    return place, out, grid


def test_all_parts_are_there_and_only_the_network_and_the_scheduler_are_new(whole):
    place, out, _ = whole
    theirs, ours = place / "source", out / "pipeline"
    told = {str(file.relative_to(ours)): file for file in sorted(ours.rglob("*.*"))}
    assert told.keys() - {"sampling.json"} == {
        str(file.relative_to(theirs)) for file in theirs.rglob("*.*") if file.suffix != ".jinja"
    }
    changed = {n for n in told if n != "sampling.json" and told[n].read_bytes() != (theirs / n).read_bytes()}
    assert {name.partition("/")[0] for name in changed} <= {
        *("model_index.json", "scheduler"),
        *("transformer", "unet"),
    }
    said, index = (json.loads((each / "model_index.json").read_text()) for each in (theirs, ours))
    assert said.keys() - index.keys() <= {"_name_or_path"}
    scheduler = json.loads((ours / "scheduler/scheduler_config.json").read_text())
    assert index["scheduler"] == ["diffusers", scheduler["_class_name"]]
    assert scheduler.get("shift", 1.0) == 1.0
    assert {file.name for file in out.iterdir()} == {"pipeline", "fewstep.json", "README.md"}


def test_the_readme_makes_images_and_prompts_become_the_samples_of_fewstep(whole, monkeypatch):
    place, out, grid = whole
    monkeypatch.chdir(out)
    (call,) = re.findall(r"```python\n(.*?)```", (out / "README.md").read_text(), re.S)
    assert "fewstep" not in call
    names = {}
    exec(call, names)
    assert names["images"][0].size == (16, 16)
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    texts = ["a mat", "a cat in the sun"]
    latents = names["pipe"](
        texts,
        sigmas=names["sigmas"],
        num_inference_steps=grid.steps,
        guidance_scale=1,
        latents=noise,
        output_type="latent",
    ).images
    given = text_encoders.read(place / "source", size=(16, 16)).encode(texts)
    ours = ExportedSampler(checkpoint.load_model(place / "model"), grid, 1.0)(noise=noise, **given)
    torch.testing.assert_close(latents, ours, rtol=1e-4, atol=1e-4)


def test_a_smaller_network_of_the_same_class_fits(made, tmp_path):
    place = made("stable_diffusion_3")
    large = checkpoint.load_model(place / "model")
    architecture = large.config.architecture | {
        "config": large.config.architecture["config"] | {"num_layers": 1}
    }
    small = build(replace(large.config, architecture=architecture), seed=0, table=large.conditions.table)
    checkpoint.save_model(tmp_path / "model", small)
    assert exported(tmp_path, tmp_path / "out", FLOW, place / "source") <= 1e-5
    told = json.loads((tmp_path / "out/pipeline/transformer/config.json").read_text())
    assert told["num_layers"] == 1


def test_sigmas_that_a_scheduler_shifts_are_found_by_the_proof(made, tmp_path, monkeypatch):
    """What the library makes of the sigmas if the source's own shift of 3 stayed."""
    place = made("stable_diffusion_3")
    write = folder.registry.find("fewstep.exports", "pipeline").write

    def keep_shift(self, sampler, file, source):
        write(self, sampler, file, source)
        config = "scheduler/scheduler_config.json"
        (file / config).write_bytes((place / "source" / config).read_bytes())

    monkeypatch.setattr("fewstep.exports.pipeline.Pipeline.write", keep_shift)
    with pytest.raises(UserError, match=r"the format pipeline does not make fewstep's samples"):
        exported(place, tmp_path / "out", FLOW)
    assert not (tmp_path / "out").exists()


def test_encoders_in_half_precision_are_called_in_single(made, tmp_path, monkeypatch):
    place = made("stable_diffusion")
    pipe = tiny_texts.stable_diffusion()
    pipe.text_encoder.half()
    pipe.save_pretrained(tmp_path / "half")
    assert exported(place, tmp_path / "out", NOISE, tmp_path / "half") <= 1e-5
    monkeypatch.chdir(tmp_path / "out")
    (call,) = re.findall(r"```python\n(.*?)```", (tmp_path / "out/README.md").read_text(), re.S)
    exec(call, {})


def test_the_same_bytes_again(made, tmp_path):
    place = made("stable_diffusion")
    for name in ("a", "b"):
        exported(place, tmp_path / name, NOISE)
    files = [
        {str(f.relative_to(tmp_path / n)): f.read_bytes() for f in (tmp_path / n).rglob("*.*")} for n in "ab"
    ]
    assert files[0] == files[1]


def remove_index(source):
    (source / "model_index.json").unlink()


def without_a_network(source):
    edit_index(source, unet=None)


def edit_index(source, **changes):
    file = source / "model_index.json"
    index = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({name: said for name, said in index.items() if said is not None}))


def of_more_features(source):
    shutil.rmtree(source / "unet")
    text_unet(cross_attention_dim=8).save_pretrained(source / "unet")


def of_another_class(source):
    shutil.rmtree(source / "unet")
    sd3().save_pretrained(source / "unet")


def pickled(source):
    (source / "vae/diffusion_pytorch_model.safetensors").rename(source / "vae/diffusion_pytorch_model.bin")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (remove_index, r"has no model_index\.json: it is no pipeline of diffusers"),
        (without_a_network, "has no unet, which the student is; name the pipeline that its network"),
        (of_another_class, "is a SD3Transformer2DModel, the student a UNet2DConditionModel; name the pipe"),
        (of_more_features, "has other conditions than the student: .*8.* and not .*6"),
        (pickled, r"vae has no weights but diffusion_pytorch_model\.bin, which may run code when"),
        (lambda s: shutil.rmtree(s / "vae"), "vae is not there, and model_index.json names it; copy the"),
        (lambda s: edit_index(s, vae=["mine", "Vae"]), "vae is a Vae of mine, code that no library has"),
        (
            lambda s: edit_index(s, vae=["Vae"]),
            r"must name the library and the class of vae, got \['Vae'\]; c",
        ),
        (lambda s: edit_index(s, vae=["diffusers", 1]), "must name the library and the class of vae, got"),
        (
            lambda s: edit_index(s, **{"../x": ["diffusers", "Vae"]}),
            r"names a part '\.\./x', which leads els",
        ),
        (
            lambda s: edit_index(s, _class_name="DDPMPipeline"),
            "is a DDPMPipeline, which fewstep does not know how to call .it knows flux",
        ),
    ],
)
def test_a_folder_that_is_no_such_pipeline_is_refused(spoil, message, made, tmp_path):
    place = made("stable_diffusion")
    shutil.copytree(place / "source", tmp_path / "source")
    spoil(tmp_path / "source")
    with pytest.raises(UserError, match=message):
        exported(place, tmp_path / "out", NOISE, tmp_path / "source")
    assert not (tmp_path / "out").exists()


def test_a_last_step_that_is_clamped_is_refused(made, tmp_path):
    place = made("stable_diffusion_3")
    model = checkpoint.load_model(place / "model")
    model.config = replace(model.config, grid=FLOW, in_range=True)
    checkpoint.save_model(tmp_path / "model", model)
    with pytest.raises(UserError, match=r"no pipeline clamps the last step to \[-1, 1\], as this student"):
        exported(tmp_path, tmp_path / "out", FLOW, place / "source")


def test_a_condition_that_the_pipeline_does_not_give_is_named(made, tmp_path):
    place = made("stable_diffusion")
    model = checkpoint.load_model(place / "model")
    config = replace(model.config, conditions=model.config.conditions | {"text_mask": (12,)})
    checkpoint.save_model(tmp_path / "model", build(config, seed=0, table=masked(model.conditions.table)))
    with pytest.raises(UserError, match="a StableDiffusionPipeline gives its network no text_mask"):
        exported(tmp_path, tmp_path / "out", NOISE, place / "source")


def masked(table):
    """Return a table of texts with a mask in which all tokens count."""
    rows = table.rows | {"text_mask": table.rows["text"][..., 0] ** 0}
    return replace(table, rows=rows, null=table.null | {"text_mask": rows["text_mask"][0]})


def test_the_folder_is_named_by_an_option_of_its_own(made, tmp_path):
    words = ["export", made("stable_diffusion") / "model", tmp_path / "out", "--steps", 2]
    with pytest.raises(SystemExit) as ended:
        command_line.main([*map(str, words), "--formats", "pipeline"])
    assert "a whole pipeline is asked for by --pipeline FOLDER" in ended.value.code
    with pytest.raises(SystemExit) as ended:
        command_line.main([*map(str, words), "--pipeline", str(tmp_path / "nowhere")])
    assert "nowhere has no model_index.json" in ended.value.code
    assert not (tmp_path / "out").exists()
