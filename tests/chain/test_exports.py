"""The stage export at the end of a chain that really ran."""

import json

import pytest
import yaml
from chain.checkout import Checkout

EXPORTS = {
    "one-step": {"formats": ["pt2", "onnx"]},
    "base": {"formats": ["pt2"], "steps": 4, "searched": True},
}


@pytest.fixture(scope="module")
def exported(finished, tmp_path_factory) -> Checkout:
    """A checkout in which a student, and its teacher on a searched grid, were exported."""
    checkout = finished.copy(tmp_path_factory.mktemp("exported") / "checkout")
    checkout.set(export=EXPORTS)
    assert sorted(checkout.repro().ran) == ["export@base", "export@one-step"]
    return checkout


def told(checkout, key, file="fewstep.json"):
    return json.loads((checkout / f"artifacts/export/{key}/{file}").read_text())


def test_a_folder_holds_what_the_command_writes_and_the_manifest_the_proof(exported):
    facts, manifest = told(exported, "one-step"), told(exported, "one-step", "manifest.json")
    files = {"sampler.pt2", "sampler.onnx"}
    assert exported.files("artifacts/export/one-step").keys() == files | {
        *("fewstep.json", "README.md", "manifest.json")
    }
    config = json.loads((exported / "artifacts/models/one-step/config.json").read_text())
    assert facts["times"] == config["grid"]["times"]
    assert manifest["facts"] == {
        "nfe": 1,
        "relative_difference": {name: facts["files"][name]["relative_difference"] for name in files},
        "bytes": {name: manifest["files"][name]["bytes"] for name in files},
    }
    assert max(manifest["facts"]["relative_difference"].values()) <= 1e-5
    assert "# Sampler of one-step" in (exported / "artifacts/export/one-step/README.md").read_text()


def test_a_searched_grid_is_that_of_the_search(exported):
    found = json.loads((exported / "artifacts/search/base/grids.json").read_text())["grids"]["4"]
    assert told(exported, "base")["times"] == found["times"]


def test_a_second_repro_runs_nothing(exported):
    assert exported.repro().ran == []


def test_another_clone_exports_the_same_bytes(exported, tmp_path):
    other = exported.copy(tmp_path / "in another folder")
    for key in EXPORTS:
        other.forget(f"export@{key}")
    (other / "artifacts/export").rmdir()
    assert sorted(other.repro().ran) == ["export@base", "export@one-step"]
    assert other.files("artifacts/export") == exported.files("artifacts/export")


def test_a_mistake_is_one_line_before_any_work(exported, tmp_path):
    checkout = exported.copy(tmp_path / "checkout")
    checkout.set(export={"boss-4": {"formats": ["diffusers"]}})
    said = checkout.refused("python -m stages.export boss-4")
    assert "export.boss-4.formats diffusers: no scheduler of diffusers takes the steps" in said


def test_dvc_has_an_output_for_each_key(exported):
    locked = exported.locked()
    for key in EXPORTS:
        (out,) = locked[f"export@{key}"]["outs"]
        assert out["path"] == f"artifacts/export/{key}"
    assert yaml.safe_load((exported / "params.yaml").read_text())["export"] == EXPORTS
