"""`fewstep search` and `fewstep sample` on a model directory, without a pipeline."""

import errno
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from fewstep import command_line, draws, pictures, randomness, refining, samplers
from fewstep.checkpoint import load_model, model_digest, save_model
from fewstep.conditions import Conditions
from fewstep.flow import as_flow
from fewstep.grids import Grid, uniform
from fewstep.model import ModelConfig, build
from fewstep.noises import GAUSSIAN
from fewstep.samplers.sde import Sde
from fewstep.solvers import integrate

POINTS = {"name": "mlp", "width": 8}
IMAGES = {"name": "unet", "width": 8, "multipliers": [1]}


@pytest.fixture
def made(tmp_path, monkeypatch):
    """Make a model directory in the working directory."""
    monkeypatch.chdir(tmp_path)

    def make(architecture=POINTS, shape=(2,), name="model", **config):
        model = build(ModelConfig(architecture=architecture, shape=shape, **config), seed=0)
        save_model(tmp_path / name, model)
        return tmp_path / name

    return make


def fewstep(*words):
    """Run a command in this process and return what it ended with: None, or its message."""
    with pytest.raises(SystemExit) as ended:
        command_line.main([str(word) for word in words])
    return ended.value.code or None


def test_a_search_writes_the_grids_that_sampling_takes(made, capsys, tmp_path):
    model = made(classes=3, class_shares=(0.2, 0.0, 0.8))
    words = ("--budgets", 2, 3, "--method", "tan", "--report", 4, "--guidance", 1.5)
    assert fewstep("search", model, *words) is None
    said = capsys.readouterr().out
    written = json.loads((tmp_path / "grids.json").read_text())
    grids = {steps: Grid(**grid) for steps, grid in written["grids"].items()}
    assert [grids[steps].steps for steps in ("2", "3")] == [2, 3]
    assert {grid.guidance for grid in grids.values()} == {1.5}
    assert {grid.model_digest for grid in grids.values()} == {model_digest(model)}
    assert written["scores"]["2"].keys() == {"uniform", "tan"}
    assert f"  2 steps  t = 0 {grids['2'].times[1]:.4g} 1\n" in said
    assert f"tan: endpoint rmse {written['scores']['2']['tan']['rmse']:.4g}" in said

    words = (
        "--grid",
        "grids.json",
        "--steps",
        2,
        "--guidance",
        1.5,
        "--samples",
        5,
        "--out",
        "x.safetensors",
    )
    assert fewstep("sample", model, *words, "--batch", 2) is None
    found = load_file(tmp_path / "x.safetensors")
    law = Conditions((0.2, 0.0, 0.8))
    noise, conditions = next(
        draws.draws("command line", 0, range(5), shape=(2,), law=GAUSSIAN, conditions=law, batch=5)
    )
    assert found["label"].tolist() == conditions["label"].tolist()
    assert set(found["label"].tolist()) == {0, 2}
    flow = as_flow(load_model(model), guidance=1.5)
    with torch.no_grad():
        wanted = integrate(flow, noise, grids["2"], **conditions)
    assert torch.allclose(found["samples"], wanted.x, atol=1e-5)
    assert f"5 samples in {wanted.nfe} network calls each" in capsys.readouterr().out


def test_the_steps_of_a_flow_map_are_searched_for_its_teacher_and_sampled(made, tmp_path, capsys):
    a_map, teacher = made({**POINTS, "second_time": True}), made(name="teacher")
    words = ("--budgets", 3, "--method", "optimal_steps", "--report", 4)
    assert fewstep("search", a_map, "--teacher", teacher, *words) is None
    assert fewstep("sample", a_map, "--grid", "grids.json", "--samples", 5, "--out", "x.safetensors") is None
    assert "5 samples in 3 network calls each" in capsys.readouterr().out
    assert "Euler steps, and grids of heun" in fewstep("search", a_map, *words, "--solver", "heun")


def test_a_student_of_equal_steps_takes_no_others(made, tmp_path):
    short = made({**POINTS, "second_time": True}, equal_steps=4)
    words = ("sample", short, "--samples", 2, "--out", "x.safetensors")
    (tmp_path / "grids.json").write_text(json.dumps({"grids": {"2": {"times": [0, 0.3, 1]}}}))
    assert "the grid has 3: take 1, 2 or 4 equal ones" in fewstep(*words, "--steps", 3)
    assert "has 2, of other lengths: take 1, 2 or 4 equal ones" in fewstep(*words, "--grid", "grids.json")
    assert "takes none that are searched" in fewstep("search", short, "--budgets", 2, "--method", "uniform")
    assert not (tmp_path / "x.safetensors").exists()
    assert fewstep(*words, "--steps", 2) is None


def test_steps_at_once_give_the_samples_of_one_after_the_other(made, tmp_path):
    words = [
        "sample",
        made(classes=3, class_shares=(0.2, 0.0, 0.8)),
        "--steps",
        12,
        "--samples",
        5,
        "--batch",
        2,
    ]
    assert fewstep(*words, "--out", "x.safetensors") is None
    assert fewstep(*words, "--at-once", 6, "--out", "y.safetensors") is None
    one, other = (load_file(tmp_path / f"{name}.safetensors") for name in "xy")
    assert torch.equal(one["label"], other["label"])
    torch.testing.assert_close(one["samples"], other["samples"], atol=5e-3, rtol=0)
    assert "steps at once must be 1 or more" in fewstep(*words, "--at-once", 0, "--out", "z.safetensors")


def test_a_sampler_takes_the_steps_in_place_of_a_solver(made, tmp_path):
    model = made()
    words = ("sample", model, "--steps", 8, "--samples", 5, "--out")
    assert fewstep(*words, "flow.safetensors") is None
    for name, batch in (("once", 5), ("parts", 2)):
        assert fewstep(*words, f"{name}.safetensors", "--sampler", "sde", "--batch", batch) is None
    flow, once, parts = (
        load_file(tmp_path / f"{n}.safetensors")["samples"] for n in ("flow", "once", "parts")
    )
    torch.testing.assert_close(once, parts)
    assert not torch.allclose(once, flow, atol=0.1)
    ((noise, _),) = draws.draws_of(load_model(model), "command line", 0, range(5), batch=5)
    keys = randomness.keys_of(0, 0, 5)
    made_by = samplers.sample(as_flow(load_model(model)), noise, uniform(8).times, Sde(), keys=keys)
    torch.testing.assert_close(once, made_by.x.detach())


def test_images_are_one_picture(made, tmp_path):
    model = made(IMAGES, (1, 4, 4))
    assert fewstep("sample", model, "--steps", 1, "--samples", 5, "--out", "some/new/samples.png") is None
    with Image.open(tmp_path / "some/new/samples.png") as picture:
        assert (picture.mode, picture.size) == ("RGB", (2 * 4, 3 * 4))  # 5 in 3 rows of 2
        assert picture.getpixel((7, 11)) == (255, 255, 255)  # no sixth


def test_pictures_hold_each_sample_in_its_place(tmp_path):
    samples = torch.linspace(-1, 1, 6).view(6, 1, 1, 1).expand(6, 3, 2, 2)
    pictures.write(samples, tmp_path / "x.png")
    with Image.open(tmp_path / "x.png") as picture:
        places = [(x, y) for y in (0, 2, 4) for x in (0, 2)]
        assert [picture.getpixel(place)[0] for place in places] == [0, 51, 102, 153, 204, 255]


def test_a_student_samples_with_its_own_grid(made, capsys):
    grid = replace(uniform(3), model_digest="of its teacher")
    model = made(trained_times="grid", grid=grid)
    assert fewstep("sample", model, "--out", "x.safetensors") is None
    assert "64 samples in 3 network calls each" in capsys.readouterr().out
    told = "this student was trained for its own 3 steps alone; leave the number of steps out"
    assert fewstep("sample", model, "--steps", 2, "--out", "x.safetensors") == told
    assert fewstep("sample", model, "--solver", "euler", "--out", "y.safetensors") is None
    assert "is for euler; leave the solver out" in fewstep(
        "sample", model, "--solver", "heun", "--out", "z.safetensors"
    )


def test_a_refiner_takes_the_last_steps_beside_its_teacher_under_its_guidance(made, capsys, tmp_path):
    folder = made(classes=3, class_shares=(0.2, 0.0, 0.8))
    model = load_model(folder)
    refiner = refining.refiner_for(model, POINTS, seed=1, digest=model_digest(folder))
    refiner.config = replace(refiner.config, baked_guidance=1.5)
    with torch.no_grad():
        for parameter in refiner.parameters():
            parameter.add_(0.1)  # its last layer is zero
    save_model(tmp_path / "turbo", refiner)
    words = ["sample", folder, "--refiner", "turbo", "--blocks", 0, 2, 3, "--samples", 5, "--batch", 2]
    assert fewstep(*words, "--out", "x.safetensors") is None
    found = load_file(tmp_path / "x.safetensors")
    noise, conditions = next(draws.draws_of(model, "command line", 0, range(5), batch=5))
    with torch.no_grad():
        flow, blocks = as_flow(model, guidance=1.5), refining.Blocks(0, 2, 3)
        wanted = refining.follow(flow, load_model(tmp_path / "turbo"), noise, blocks, **conditions)
    torch.testing.assert_close(found["samples"], wanted.x)
    assert f"5 samples in {wanted.nfe} network calls each" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--refiner", "model"], "--refiner and --blocks go together"),
        (["--blocks", "1", "0", "0"], "--refiner and --blocks go together"),
        (["--refiner", "model", "--blocks", "1", "0", "0"], "this model is no refiner"),
        (["--refiner", "other", "--blocks", "1", "0", "0"], "must make the same kind of samples"),
        (
            ["--refiner", "of another", "--blocks", "1", "0", "0"],
            "was trained beside the model 0123, but this",
        ),
        (
            ["--refiner", "turbo", "--blocks", "0", "0", "2"],
            "blocks 0 0 2: the first or second number must be 1 or more",
        ),
        (["--refiner", "turbo", "--blocks", "1", "0", "0", "--steps", "2"], "leave --steps out"),
        (["--refiner", "turbo", "--blocks", "1", "0", "0", "--guidance", "2"], "leave --guidance out"),
    ],
)
def test_a_mistake_about_a_refiner_is_one_message(made, tmp_path, words, told):
    models = {"turbo": load_model(made()), "other": load_model(made(shape=(3,), name="wide"))}
    for name, model in models.items():
        save_model(tmp_path / name, refining.refiner_for(model, POINTS, seed=0))
    stranger = refining.refiner_for(models["turbo"], POINTS, seed=0, digest="0123")
    save_model(tmp_path / "of another", stranger)
    assert told in fewstep("sample", "model", *words, "--out", "x.safetensors")
    assert "is a refiner" in fewstep("sample", "turbo", "--steps", 2, "--out", "x.safetensors")
    assert "is a refiner" in fewstep("export", "turbo", "exported", "--steps", 2)
    assert not (tmp_path / "exported").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["sample", "nowhere"], "nowhere is no model directory: it has no config.json"),
        (["sample", "model", "--out", "x.gif"], "--out needs a name that ends in .png or .safetensors"),
        (
            ["sample", "model"],
            "samples of shape (2,) are no pictures; write them to --out samples.safetensors",
        ),
        (["sample", "model", "--samples", "0"], "--samples must be 1 or more, got 0"),
        (
            ["sample", "model", "--out", "x.safetensors"],
            "this model has no grid of its own; give the number of steps",
        ),
        (
            ["sample", "model", "--out", "x.safetensors", "--grid", "a"],
            "there is no a; `fewstep search` writes",
        ),
        (["sample", "model", "--out", "x.safetensors", "--grid", "model/config.json"], "holds no grids"),
        (
            ["sample", "model", "--out", "x.safetensors", "--grid", "two.json"],
            "grids of 1, 2 steps; say which",
        ),
        (
            ["sample", "model", "--out", "x.safetensors", "--grid", "two.json", "--steps", "3"],
            "grids of 1, 2 steps; --steps 3 is not among them",
        ),
        (
            [
                "sample",
                "model",
                "--out",
                "x.safetensors",
                "--grid",
                "two.json",
                "--steps",
                "1",
                "--solver",
                "heun",
            ],
            "the solver heun is for equal steps: this grid of 1 steps is for euler; leave the solver out",
        ),
        (
            ["export", "model", "out", "--grid", "two.json", "--steps", "1", "--solver", "heunn"],
            "the solver heunn is for equal steps",
        ),
        (
            ["sample", "model", "--out", "x.safetensors", "--steps", "2", "--solver", "eler"],
            "did you mean 'euler'",
        ),
        (["sample", "model", "--steps", "2", "--guidance", "2", "--out", "x.safetensors"], "has no classes"),
        (
            ["sample", "model", "--device", "abacus", "--out", "x.safetensors"],
            "--device abacus cannot be used",
        ),
        (
            ["search", "model", "--budgets", "2", "--method", "belman"],
            "unknown search 'belman'; did you mean",
        ),
        (
            ["sample", "model", "--steps", "2", "--out", "x.safetensors", "--sampler", "sed"],
            "unknown sampler 'sed'; did you mean 'sde'",
        ),
        (
            [
                "sample",
                "model",
                "--steps",
                "2",
                "--sampler",
                "sde",
                "--solver",
                "heun",
                "--out",
                "x.safetensors",
            ],
            "--sampler sde takes the steps itself; leave --solver and --at-once out",
        ),
        (
            ["sample", "model", "--steps", "2", "--out", "x.safetensors", "--sampler", "reinterpolate"],
            "this sampler needs a model that learned from pairs",
        ),
        (["search", "model", "--budgets", "2", "--batch", "0"], "batch must be 1 or more"),
        (["search", "model", "--budgets", "2", "--seed", "99999999999999999999"], "--seed must be a whole"),
        (
            ["sample", "model", "--steps", "2", "--out", "x.safetensors", "--seed", "-1"],
            "--seed must be a whole number from 0 to 2**32 - 1, got -1",
        ),
    ],
)
def test_a_mistake_is_one_message(made, tmp_path, words, told):
    made()
    grids = {str(steps): {"times": uniform(steps).times} for steps in (1, 2)}
    (tmp_path / "two.json").write_text(json.dumps({"grids": grids}))
    assert told in fewstep(*words)


@pytest.mark.parametrize("words", [("search", "--budgets", 2), ("sample", "--steps", 1)])
def test_an_output_that_can_not_be_written_is_refused_before_any_work(made, tmp_path, words):
    (tmp_path / "folder.png").mkdir()
    assert fewstep(words[0], "nowhere", *words[1:], "--out", "folder.png") == (
        "folder.png is a folder; give the name of a file"
    )


def no_room(file, content):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    ("words", "out"),
    [
        (("search", "--budgets", 2, "--method", "tan"), "grids.json"),
        (("sample", "--steps", 1), "x.safetensors"),
    ],
)
def test_a_disk_that_is_full_is_one_message(made, tmp_path, monkeypatch, words, out):
    model = made()
    before = sorted(tmp_path.rglob("*"))
    for write in ("write_bytes", "write_text"):
        monkeypatch.setattr(Path, write, no_room)
    told = fewstep(words[0], model, *words[1:], "--out", out)
    assert told == f"{out} can't be written: No space left on device"
    assert sorted(tmp_path.rglob("*")) == before


def test_progress_is_reported_beside_what_is_printed(made, capsys):
    model = made()
    assert fewstep("search", model, "--budgets", 2, "--method", "tan") is None
    out, err = capsys.readouterr()
    assert err.startswith("search: ")
    assert "(100 %)" in err
    assert "search:" not in out
    assert fewstep("sample", model, "--steps", 1, "--samples", 5, "--out", "x.safetensors") is None
    assert capsys.readouterr().err.startswith("sample: sample 5/5 (100 %), ")


def test_a_grid_of_another_model_is_refused(made, tmp_path):
    grid = {"times": [0, 0.5, 1], "model_digest": "another"}
    (tmp_path / "grids.json").write_text(json.dumps({"grids": {"2": grid}}))
    told = fewstep("sample", made(), "--grid", "grids.json", "--out", "x.safetensors")
    assert "was searched for the model another" in told
