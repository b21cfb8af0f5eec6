"""The stage export: what it writes of a model, and what it goes on with after a kill."""

import json

import pytest
from jobs import job_in

from fewstep import checkpoint
from fewstep.errors import UserError
from fewstep.exporting import folder
from fewstep.grids import uniform
from fewstep.model import ModelConfig, build
from stages import export


def saved(place, **config):
    """Save a small model of points, and return where."""
    architecture = {"name": "mlp", "width": 8, "depth": 1}
    model = build(ModelConfig(architecture=architecture, shape=(2,), **config), seed=0)
    checkpoint.save_model(place, model)
    return place


def run(place, model, **settings):
    """Run the stage in a folder, where an earlier run may have left something."""
    job = job_in(place, "export", model.name, inputs={"model": model})
    export.run(export.Config(**settings), job)
    return job


def bytes_below(place):
    return {str(file.relative_to(place)): file.read_bytes() for file in place.rglob("*") if file.is_file()}


def test_a_killed_stage_keeps_the_formats_that_were_whole(tmp_path, monkeypatch):
    model = saved(tmp_path / "mine", grid=uniform(2), trained_times="grid")
    whole = run(tmp_path / "whole", model)
    written, add = [], folder.add

    def killed_at_onnx(sampler, name, format, place, source):
        written.append(name)
        if name == "onnx":
            (place / format.file).write_text("half a file")
            raise KeyboardInterrupt
        return add(sampler, name, format, place, source)

    monkeypatch.setattr(folder, "add", killed_at_onnx)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed", model)
    monkeypatch.setattr(folder, "add", lambda *given: written.append(given[1]) or add(*given))
    again = run(tmp_path / "killed", model)
    assert written == ["pt2", "onnx", "onnx"]
    assert bytes_below(again.out) == bytes_below(whole.out)
    assert again.facts == whole.facts
    assert again.facts["bytes"]["sampler.pt2"] == (again.out / "sampler.pt2").stat().st_size


@pytest.mark.parametrize("name", ["sampler.pt2", "sampler.onnx"])
def test_a_format_whose_file_is_gone_is_written_again(tmp_path, name):
    model = saved(tmp_path / "mine", grid=uniform(2), trained_times="grid")
    whole = run(tmp_path / "whole", model)
    before = bytes_below(whole.out)
    (whole.out / name).unlink()  # as finished scratch removes what is damaged
    again = run(tmp_path / "whole", model)
    assert bytes_below(again.out) == before
    assert again.facts == whole.facts


def test_other_samples_fail_the_stage(tmp_path, monkeypatch):
    model = saved(tmp_path / "mine")
    monkeypatch.setattr("fewstep.exporting.proof.LIMIT", -1)
    with pytest.raises(UserError, match="the format pt2 does not make fewstep's samples"):
        run(tmp_path, model, steps=2, formats=["pt2"])


def test_a_model_takes_equal_steps_by_any_solver(tmp_path):
    model = saved(tmp_path / "mine")
    job = run(tmp_path, model, steps=3, solver="heun", formats=["pt2"])
    told = json.loads((job.out / "fewstep.json").read_text())
    assert (told["times"], told["solver"]) == (list(uniform(3).times), "heun")
    assert job.facts["nfe"] == told["nfe"] == 6


def test_a_model_without_a_grid_needs_a_number_of_steps(tmp_path):
    with pytest.raises(UserError, match="this model has no grid of its own; give the number of steps, or a"):
        run(tmp_path, saved(tmp_path / "mine"), formats=["pt2"])
