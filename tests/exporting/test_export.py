"""`fewstep export`: the sampler of a model directory in other formats, proved and described."""

import json
import re
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fewstep import checkpoint, command_line
from fewstep.conditions import Table
from fewstep.errors import UserError
from fewstep.exporting import description, folder, proof
from fewstep.exporting.sampler import ExportedSampler
from fewstep.exports import onnx
from fewstep.exports.pt2 import Pt2
from fewstep.flow import usable_times
from fewstep.grids import Grid, uniform
from fewstep.model import ModelConfig, build

POINTS = {"name": "mlp", "width": 8, "depth": 1}
CONDITIONS = {"text": (3, 2), "hint": (1, 5, 6)}
IMAGES = {"name": "unet", "width": 8, "multipliers": [1, 2], "attention": True}


def save(place, architecture=POINTS, shape=(2,), table=None, **config):
    """Save a model whose outputs depend on all of its inputs."""
    model = build(ModelConfig(architecture=architecture, shape=shape, **config), seed=0, table=table)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.1 * torch.randn(weight.shape, generator=generator)
    checkpoint.save_model(place, model)
    return place


def fewstep(*words):
    """Run a command in this process and return what it ended with: None, or its message."""
    with pytest.raises(SystemExit) as ended:
        command_line.main([str(word) for word in words])
    return ended.value.code or None


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A guided teacher of odd images with classes, a text and an image, in both formats."""
    place = tmp_path_factory.mktemp("teacher")
    rows = {name: torch.randn(4, *shape).numpy() for name, shape in CONDITIONS.items()}
    null = {"text": torch.randn(3, 2).numpy()}
    table = Table(rows=rows | {"label": torch.arange(4).numpy() % 3}, null=null)
    config = {"classes": 3, "class_names": ("a", "b", "c"), "conditions": CONDITIONS}
    model = save(place / "model", IMAGES, (1, 5, 6), table=table, **config)
    words = ("--steps", 2, "--guidance", 2)
    assert fewstep("export", model, place / "out", *words) is None
    return place / "out"


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    """A student of a diffusion path with a grid of its own and units of the data, in both formats."""
    place = tmp_path_factory.mktemp("student")
    grid = Grid((0.01, 0.4, 1.0), solver="ab2", model_digest="of its teacher")
    units = {"scale": (1e6, 1e-3), "offset": (5.0, -1.0)}
    config = {"grid": grid, "trained_times": "grid", "units": units, "path": "vp", "prediction": "noise"}
    model = save(place / "model", **config)
    assert fewstep("export", model, place / "out") is None
    return place / "out"


def told(place):
    return json.loads((place / "fewstep.json").read_text())


def test_what_was_exported_is_described(teacher):
    facts = told(teacher)
    model = teacher.parent / "model"
    assert facts["model_digest"] == checkpoint.model_digest(model)
    assert (facts["times"], facts["sigmas"]) == ([0, 0.5, 1], [1, 0.5, 0])
    assert (facts["solver"], facts["guidance"], facts["nfe"]) == ("euler", 2, 4)
    assert (facts["shape"], facts["classes"], facts["class_names"]) == ([1, 5, 6], 3, ["a", "b", "c"])
    assert (facts["prediction"], facts["path"]) == ("velocity", "linear")
    assert facts["manual_sigmas"] == "1, 0.5, 0"
    assert facts["files"].keys() == {"sampler.pt2", "sampler.onnx"}
    for measured in facts["files"].values():
        assert 0 <= measured["relative_difference"] <= 1e-5
    text = (teacher / "README.md").read_text()
    assert "4 network calls" in text
    assert "classes 0 to 2: a, b, c" in text
    assert facts["conditions"] == {"text": [3, 2], "hint": [1, 5, 6]}
    assert "| `text` | float32 (batch, 3, 2) | what a sample is conditioned on |" in text
    assert {file.name for file in teacher.iterdir()} == facts["files"].keys() | {"fewstep.json", "README.md"}


def test_a_student_takes_its_own_steps(student):
    facts = told(student)
    assert (facts["times"], facts["solver"], facts["nfe"]) == ([0.01, 0.4, 1], "ab2", 2)
    assert facts["manual_sigmas"] == "99, 1.5, 0"  # of a diffusion model: (1 - t) / t
    assert max(measured["relative_difference"] for measured in facts["files"].values()) <= 1e-5


@pytest.mark.parametrize("which", ["teacher", "student"])
def test_the_readme_samples_as_it_stands(which, request, monkeypatch):
    place = request.getfixturevalue(which)
    monkeypatch.chdir(place)
    config = checkpoint.load_config(place.parent / "model")
    calls = re.findall(r"```python\n(.*?)```", (place / "README.md").read_text(), re.S)
    assert len(calls) == 2
    for call in calls:
        assert "fewstep" not in call
        names = {}
        exec(call, names)
        made = torch.as_tensor(names["samples"])
        assert made.shape == (16, *config.shape)
        facts = told(place)
        grid = Grid(tuple(facts["times"]), solver=facts["solver"])
        sampler = ExportedSampler(checkpoint.load_model(place.parent / "model"), grid, facts["guidance"])
        inputs = ("noise", *config.condition_names)
        given = {name: torch.as_tensor(names[name]) for name in inputs}
        torch.testing.assert_close(made, sampler(**given), rtol=1e-4, atol=1e-5)


def test_nothing_in_the_archive_is_a_pickle(teacher):
    with zipfile.ZipFile(teacher / "sampler.pt2") as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    assert not [name for name, content in contents.items() if content[:2] in (b"\x80\x02", b"PK")]
    inputs = [content for name, content in contents.items() if "sample_inputs" in name]
    assert inputs == [b""]
    configs = [content for name, content in contents.items() if name.endswith("_config.json")]
    assert len(configs) == 2
    for config in configs:
        assert not any(entry["use_pickle"] for entry in json.loads(config)["config"].values())


def test_the_end_of_a_student_of_images_stays_in_range(tmp_path):
    config = {"in_range": True, "grid": uniform(1), "trained_times": "grid"}
    save(tmp_path / "model", shape=(1, 4, 4), **config)
    folder.export(tmp_path / "model", uniform(1), tmp_path / "out", formats=["pt2"])
    exported = Pt2().read(tmp_path / "out" / "sampler.pt2", tmp_path / "model")
    samples = exported({"noise": 9 * torch.randn(64, 1, 4, 4)})
    assert samples.abs().max() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            lambda x: x + 2e-4 * x.abs().max(),
            "the format pt2 does not make fewstep's samples: they differ by ",
        ),
        (lambda x: x * torch.nan, "they differ by inf of their size"),
        (lambda x: x[:1], "they differ by inf of their size"),
        (lambda x: 1 / 0, "the format pt2 can't hold this sampler: division by zero"),
    ],
    ids=["other numbers", "nan", "one sample", "crash"],
)
def test_other_samples_are_refused_and_leave_nothing(tmp_path, monkeypatch, wrong, message):
    save(tmp_path / "model")
    sampler = ExportedSampler(checkpoint.load_model(tmp_path / "model"), uniform(2), 1.0)
    monkeypatch.setattr(ExportedSampler, "traced", lambda self: None)
    monkeypatch.setattr(Pt2, "write", lambda self, sampler, file, source: file.write_text("a graph"))
    monkeypatch.setattr(Pt2, "read", lambda self, file, source: lambda inputs: wrong(sampler(**inputs)))
    said = fewstep("export", tmp_path / "model", tmp_path / "out", "--steps", 2, "--formats", "pt2")
    assert message in said
    assert [file.name for file in tmp_path.iterdir()] == ["model"]


def test_the_proof_compares_in_units_of_the_model(tmp_path):
    """A feature of data with large units does not hide the others."""
    units = {"scale": (1e6, 1e-3), "offset": (0.0, 0.0)}
    sampler = ExportedSampler(checkpoint.load_model(save(tmp_path, units=units)), uniform(1), 1.0)

    def shifted(inputs):
        return sampler(**inputs) + torch.tensor([0.0, 1e-4], dtype=torch.float64)

    assert proof.difference(sampler, lambda inputs: sampler(**inputs)).difference == 0
    assert proof.difference(sampler, shifted).difference > 0.01


def test_a_network_that_can_not_be_traced_is_named(tmp_path, monkeypatch):
    sampler = ExportedSampler(checkpoint.load_model(save(tmp_path)), uniform(1), 1.0)
    monkeypatch.setattr(sampler.model, "forward", lambda x, t: x if x.sum() > 0 else -x)
    with pytest.raises(command_line.UserError, match=r"torch\.export can't trace the model 'mlp'"):
        sampler.traced()


def test_what_a_network_refuses_is_not_said_to_be_a_mistake_of_tracing(tmp_path, monkeypatch):
    def refuse(x, t, **given):
        raise command_line.UserError("a label was given to a network without classes")

    sampler = ExportedSampler(checkpoint.load_model(save(tmp_path)), uniform(1), 1.0)
    monkeypatch.setattr(sampler.model, "forward", refuse)
    with pytest.raises(command_line.UserError, match=r"^a label was given"):
        sampler.traced()


def test_a_flow_map_says_that_its_network_needs_the_end_of_a_step(tmp_path):
    save(tmp_path / "model", {**POINTS, "second_time": True}, grid=uniform(2))
    assert fewstep("export", tmp_path / "model", tmp_path / "out", "--formats", "pt2") is None
    facts = told(tmp_path / "out")
    assert (facts["velocity_until"], facts["manual_sigmas"]) == ("any", None)
    assert "ManualSigmas" not in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize("path", ["cosine", {"name": "table"}])
def test_paths_whose_times_need_more_than_onnx_has_are_exported(tmp_path, path):
    """An angle in float64, and a search in a table; the student above is on the path vp."""
    save(tmp_path / "model", path=path, prediction="noise")
    start, end = usable_times(path, "noise")
    grid = uniform(2, start=start, end=end)
    differences = folder.export(tmp_path / "model", grid, tmp_path / "out", formats=["onnx"])
    assert differences["sampler.onnx"] <= 1e-5


def test_weights_that_a_file_of_onnx_can_not_hold_lie_beside_it(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx, "LARGEST_FILE", 0)
    save(tmp_path / "model")
    folder.export(tmp_path / "model", uniform(1), tmp_path / "out", formats=["onnx"])
    file = tmp_path / "out" / "sampler.onnx"
    assert file.with_name("sampler.onnx.data").stat().st_size > 0
    sampler = ExportedSampler(checkpoint.load_model(tmp_path / "model"), uniform(1), 1.0)
    again = onnx.Onnx().read(file, tmp_path / "model")(sampler.inputs(4))  # where the folder lies now
    torch.testing.assert_close(again, sampler(**sampler.inputs(4)), rtol=1e-4, atol=1e-5)


def test_an_infinite_ratio_is_no_list():
    config = ModelConfig(architecture=POINTS, shape=(2,), path="cosine")
    assert description.manual_sigmas(config, uniform(2)) is None
    assert description.manual_sigmas(config, uniform(2, start=0.5)) == "1, 0.333333333, 0"
    linear = replace(config, path={"name": "linear"})  # the same as its name alone
    assert description.manual_sigmas(linear, uniform(2)) == "1, 0.5, 0"
    with pytest.raises(UserError, match=r"a format is a name, or a mapping with a name and options; got"):
        folder.ready([{"folder": "x"}])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere", "out"], "nowhere is no model directory: it has no config.json"),
        (["model", "out"], "this model has no grid of its own; give the number of steps"),
        (["model", "model", "--steps", "2"], "model exists; give the name of a new folder"),
        (["model", "model/config.json/out", "--steps", "2"], "model/config.json/out can't be written: "),
        (
            ["model", "out", "--steps", "2", "--formats", "onix"],
            "unknown export 'onix'; did you mean 'onnx'?",
        ),
        (["model", "out", "--steps", "2", "--guidance", "2"], "this one has no classes"),
        (["student", "out", "--steps", "2"], "this student was trained for its own 1 steps alone"),
        (["short", "out", "--steps", "3"], "for equal steps alone; the grid has 3: take 1, 2 or 4 equal"),
    ],
)
def test_a_mistake_is_one_message(tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    save(Path("model"))
    save(Path("student"), grid=replace(uniform(1), model_digest="another"), trained_times="grid")
    save(Path("short"), {**POINTS, "second_time": True}, equal_steps=4)
    assert message in fewstep("export", *words)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["model", "short", "student"]


@pytest.mark.parametrize("library", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_library_is_named(tmp_path, monkeypatch, library):
    save(tmp_path / "model")
    monkeypatch.setitem(sys.modules, library, None)
    said = fewstep("export", tmp_path / "model", tmp_path / "out", "--steps", 2)
    assert said == f"the format onnx needs {library}: pip install 'fewstep[onnx]'"
    assert not (tmp_path / "out").exists()
