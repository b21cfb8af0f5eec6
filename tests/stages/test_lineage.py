"""What a result rests on: the artifacts of earlier stages, not the files of the user's."""

import json
import os
from pathlib import Path

import pytest

from fewstep import variables
from fewstep.training.engine import VARIABLES, Engine
from stages.artifacts import manifests
from stages.artifacts.plan import Input, ancestors
from stages.tracking import lineage


def manifest(name, **inputs):
    """Return a manifest; `inputs` are paths, each with the fingerprint of what was made there, if it was."""
    used = {key: {"path": path, "digest": "", "fingerprint": made} for key, (path, made) in inputs.items()}
    return dict.fromkeys(manifests.FIELDS) | {"stage": name, "fingerprint": name, "inputs": used}


@pytest.mark.parametrize("own", ["data/cats.npz", "data/cats"])
def test_a_file_or_folder_of_the_users_is_no_ancestor(tmp_path, monkeypatch, own):
    monkeypatch.chdir(tmp_path)
    Path("data/cats").mkdir(parents=True)
    Path("data/cats.npz").touch()
    Path("data/cats/manifest.json").write_text(json.dumps(manifest("of another project")))
    Path("prepared").mkdir()
    Path("prepared/manifest.json").write_text(json.dumps(manifest("prepare", source=(own, None))))
    model = Input(Path("model"), "", manifest("pretrain", data=("prepared", "prepare")))
    assert [made["stage"] for made in ancestors({"model": model})] == ["prepare", "pretrain"]


def test_git_may_name_a_folder_whose_name_is_no_text(monkeypatch):
    monkeypatch.setenv("GIT_DIR", os.fsdecode(b"caf\xe9"))
    assert lineage.git_commit.__wrapped__() is None


def test_all_that_says_how_a_training_computes_is_tracked(monkeypatch):
    read = []
    monkeypatch.setattr(variables, "is_on", lambda name: bool(read.append(name)))
    monkeypatch.setattr(variables, "count", lambda name, what, default: read.append(name))
    Engine.from_environment()
    assert set(read) == set(VARIABLES)
    monkeypatch.setenv("FEWSTEP_OFFLOAD", "on")
    assert lineage.environment()["fewstep_offload"] == "on"
