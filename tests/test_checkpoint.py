import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from fewstep import grids
from fewstep.checkpoint import WEIGHTS, load_model, model_digest, save_model
from fewstep.errors import UserError
from fewstep.model import ModelConfig, build

CONFIG = ModelConfig(
    architecture={"name": "mlp", "width": 8, "depth": 1},
    shape=(2,),
    classes=3,
    path="cosine",
    prediction="v",
    trained_times="grid",
    grid=grids.Grid((0.0, 1 / 3, 1.0), model_digest="abc"),
)


@pytest.fixture
def folder(tmp_path):
    save_model(tmp_path / "model", build(CONFIG, seed=1))
    return tmp_path / "model"


def test_round_trip(folder):
    model, loaded = build(CONFIG, seed=1), load_model(folder)
    assert loaded.config == CONFIG
    assert not loaded.training
    weights = loaded.state_dict()
    assert weights.keys() == model.state_dict().keys()
    assert all(torch.equal(weights[name], tensor) for name, tensor in model.state_dict().items())


def test_equal_models_give_equal_bytes(folder, tmp_path):
    save_model(tmp_path / "again", build(CONFIG, seed=1))
    save_model(tmp_path / "loaded", load_model(folder))
    save_model(tmp_path / "weights", build(CONFIG, seed=2))
    save_model(tmp_path / "config", build(replace(CONFIG, prediction="data"), seed=1))
    for name in ("model.safetensors", "config.json"):
        assert (folder / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    digest = model_digest(folder)
    assert len(digest) == 64
    assert digest == model_digest(tmp_path / "again") == model_digest(tmp_path / "loaded")
    assert len({digest, model_digest(tmp_path / "weights"), model_digest(tmp_path / "config")}) == 3


def test_the_folder_holds_two_files_and_the_config_is_sorted(folder):
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    text = (folder / "config.json").read_text()
    assert text == json.dumps(json.loads(text), indent=2, sort_keys=True) + "\n"


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named_with_its_folder(folder, name):
    (folder / name).unlink()
    for read in (load_model, model_digest):
        with pytest.raises(UserError, match=rf"{folder} is no model directory: it has no {name}"):
            read(folder)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(UserError, match="nowhere is no model directory"):
        load_model(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architecture": {"name": "unte"}}, "model 'unte'; did you mean 'unet'"),
        ({"architecture": {"name": "mlp", "widht": 8}}, "widht"),
        ({"architecture": {}}, "unknown model None"),
        ({"pathh": "linear"}, "it has 'pathh', which this version of fewstep does not know; install"),
        ({"shape": None}, "one of its values has a wrong type"),
        ({"path": "circle"}, "circle"),
        ({"path": ["x"]}, "config.json"),
        ({"lora": {"alpha": "x"}}, "one of its values has a wrong type"),
        ({"grid": {"times": [1, 0]}}, "grid times must increase"),
        ({"shape": [5]}, r"first.weight of shape \[8, 2\], the architecture of shape \[8, 5\]"),
        (
            {"architecture": {"name": "mlp", "width": 8, "depth": 2}},
            r"it has blocks\.1.* not at all, the architecture of shape .*; copy both",
        ),
        ({"classes": 0}, r"label.weight of shape \[4, 8\], the architecture not at all"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(folder, change, message):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(UserError, match=message) as caught:
        load_model(folder)
    assert str(folder) in str(caught.value)


def test_damaged_files_are_named(folder):
    weights = (folder / "model.safetensors").read_bytes()
    for damaged in (weights[:-5], b"", b"not weights at all"):
        (folder / "model.safetensors").write_bytes(damaged)
        with pytest.raises(UserError, match=r"model\.safetensors is damaged"):
            load_model(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json"):
        load_model(folder)


PEAKS = """
import resource, sys
from pathlib import Path
from fewstep.checkpoint import load_model, model_digest

def peak():
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

small, large = map(Path, sys.argv[1:])
load_model(small), model_digest(small)
start = peak()
digest = model_digest(large)
after = peak()
model = load_model(large)
print(after - start, peak() - start)
"""


def test_reading_a_model_takes_little_more_memory_than_its_weights(tmp_path):
    sizes = {"small": {"width": 8, "depth": 1}, "large": {"width": 1024, "depth": 12}}
    for name, size in sizes.items():
        config = ModelConfig(architecture={"name": "mlp", **size}, shape=(2,))
        save_model(tmp_path / name, build(config, seed=0))
    command = [sys.executable, "-c", PEAKS, *(str(tmp_path / name) for name in sizes)]
    digest, loaded = map(int, subprocess.check_output(command, text=True).split())
    file = (tmp_path / "large" / WEIGHTS).stat().st_size
    assert digest < 0.05 * file
    assert loaded < 1.1 * file


def test_weights_that_are_not_finite_are_neither_written_nor_read(folder):
    model = build(CONFIG, seed=1)
    with torch.no_grad():
        model.network.first.bias[0] = torch.nan
    before = model_digest(folder)
    with pytest.raises(UserError, match=r"first\.bias"):
        save_model(folder, model)
    assert model_digest(folder) == before
    weights = load_file(folder / "model.safetensors")
    weights["first.bias"][0] = torch.inf
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(UserError, match=r"first\.bias"):
        load_model(folder)
