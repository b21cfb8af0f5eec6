"""Values that fill a tiny part of their range, and points far from the scale of noise, are refused."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from jobs import job_in
from safetensors.torch import load_file
from test_sources import floats, load, photos, refused, save_images

from fewstep import command_line
from fewstep.checkpoint import load_model, save_model
from fewstep.errors import UserError
from fewstep.model import ModelConfig, build
from stages.training.training import publish_model

RANDOM = np.random.default_rng(0)


@pytest.fixture
def root(tmp_path):
    (tmp_path / "data").mkdir()
    return tmp_path


def masks(top=1):
    return RANDOM.integers(0, top + 1, (20, 9, 9), dtype=np.uint8)


@pytest.mark.parametrize("top", [1, 9, 15])
def test_bytes_of_few_levels_are_refused_until_their_range_is_named(root, top):
    images = masks(top)
    np.savez(root / "data/d.npz", x=images)
    save_images(root / "data/imgs", images)
    for source, where in (("d.npz", r"d\.npz: x"), ("imgs", "imgs")):
        says = rf"data/{where} goes from 0 to {top}, a small part of its range, 0 to 255, .* set "
        refused(rf"{says}prepare.source_options.value_range to \[0, {top}\]", source, root)
        samples = load(source, root, value_range=[0, top])
        assert samples.data.dtype == torch.uint8
        assert (floats(samples).min(), floats(samples).max()) == (-1, 1)
        refused(r"goes from 0 to \d+, outside value_range \[0, 0.5\]", source, root, value_range=[0, 0.5])


def test_floats_in_a_range_that_is_far_too_wide_are_refused(root):
    np.savez(root / "data/d.npz", x=RANDOM.random((20, 9, 9)))
    refused(r"a small part of its range, 0 to 255, .*value_range to \[", "d.npz", root, value_range=[0, 255])
    refused(r"a small part of its range, -9 to 9, ", "d.npz", root, value_range=[-9, 9])
    assert load("d.npz", root, value_range=[0, 1]).data.min() == pytest.approx(-1, abs=0.01)


def test_dim_images_and_the_whole_range_of_bytes_pass(root):
    np.savez(root / "data/d.npz", x=masks(60))
    assert load("d.npz", root).affine == (2 / 255, -1.0)
    np.savez(root / "data/d.npz", x=photos())
    assert load("d.npz", root, value_range=[0, 255]).affine == (2 / 255, -1.0)


def test_wrong_ranges_and_frames_of_a_folder_are_refused(root):
    save_images(root / "data/imgs", photos())
    refused(r"value_range must be two numbers, .* got \[1, 0\]", "imgs", root, value_range=[1, 0])
    refused("frames must be first or all, got 'last'", "imgs", root, frames="last")


# Points


def points(scale, offset):
    return RANDOM.normal(size=(600, 3)) * np.asarray(scale) + np.asarray(offset)


@pytest.mark.parametrize(
    ("scale", "offset", "says"),
    [
        (1e5, 1e6, r"3 of 3 features .* feature \d has \d+ and \d+"),
        ((1, 1e-3, 1), 0, r"1 of 3 features .* feature 1 has .*e-05 and 0\.00"),
        (1, (0, 0, 1.7e9), r"1 of 3 features .* feature 2 has 1.7e\+09 and "),
    ],
)
def test_points_of_another_scale_than_noise_are_refused_until_they_are_standardised(
    root, scale, offset, says
):
    x = points(scale, offset)
    np.savez(root / "data/d.npz", x=x)
    refused(rf"data/d\.npz: {says}.*set prepare.source_options.standardise to true", "d.npz", root)
    samples = load("d.npz", root, standardise=True)
    assert samples.data.mean(0).abs().max() < 1e-4
    torch.testing.assert_close(samples.data.std(0), torch.ones(3), atol=0.01, rtol=0)
    numbers = {name: np.array(values) for name, values in samples.units.items()}
    again = samples.data.double().numpy() * numbers["scale"] + numbers["offset"]
    np.testing.assert_allclose(again, x, atol=1e-5 * np.max(scale))


def test_a_feature_of_one_value_is_named(root):
    np.savez(root / "data/d.npz", x=points((1, 0, 1), (0, 7, 0)))
    for standardise in (False, True):
        refused("feature 1 is 7 in all samples; remove it", "d.npz", root, standardise=standardise)


def test_points_that_are_not_finite_are_named_though_they_are_standardised(root):
    x = points(1e5, 0)
    x[5, 1] = np.nan
    np.savez(root / "data/d.npz", x=x)
    refused("1 of 600 samples hold NaN or infinity, the first is number 5", "d.npz", root, standardise=True)


def test_samples_come_in_the_units_of_the_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    units = {"scale": [1e5, 2.0], "offset": [1e6, -3.0]}
    for name, given in (("plain", None), ("own", units)):
        model = build(ModelConfig(architecture={"name": "mlp", "width": 8}, shape=(2,), units=given), seed=0)
        save_model(tmp_path / name, model)
        with pytest.raises(SystemExit):
            command_line.main(
                ["sample", name, "--steps", "2", "--samples", "4", "--out", f"{name}.safetensors"]
            )
    plain, own = (load_file(tmp_path / f"{name}.safetensors")["samples"] for name in ("plain", "own"))
    expected = plain.double() * torch.tensor(units["scale"]) + torch.tensor(units["offset"])
    torch.testing.assert_close(own, expected)


def test_an_adopted_model_has_the_units_of_the_data(tmp_path):
    units = {"scale": [2.0, 2.0], "offset": [0.0, 1.0]}
    facts = {"shape": [2], "classes": 0, "class_names": [], "class_shares": [], "units": units}
    config = ModelConfig(architecture={"name": "mlp", "width": 8}, shape=(2,))
    save_model(tmp_path / "mine", build(config, seed=0))
    mine = tmp_path / "mine"
    publish_model(job := job_in(tmp_path, "pretrain"), load_model(mine), facts, source=mine)
    assert json.loads((job.out / "config.json").read_text())["units"] == units
    save_model(tmp_path / "mine", build(replace(config, units=units | {"offset": [0.0, 2.0]}), seed=0))
    with pytest.raises(UserError, match="learnt from points that were standardised by other numbers"):
        publish_model(job, load_model(mine), facts, source=mine)
