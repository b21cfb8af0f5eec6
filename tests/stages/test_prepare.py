"""What prepare takes of data/, and what it refuses to make of it."""

import copy
from pathlib import Path

import pytest
import yaml
from jobs import job_in

from fewstep.errors import UserError
from fewstep.shards import Shards, recipe
from stages import prepare, pretrain
from stages.artifacts.plan import Plan
from stages.settings import checks
from stages.settings.params import Params

RAW = yaml.safe_load(Path("params.yaml").read_text())


def settings(source):
    raw = copy.deepcopy(RAW)
    raw["prepare"]["source"] = source
    return Params(raw)


@pytest.fixture
def data(tmp_path, monkeypatch):
    """An empty data/ in the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def fingerprint(source):
    return Plan.read(settings(source), "prepare", None).fingerprint


@pytest.mark.parametrize("source", ["digits", "two_moons", "https://example.com/x.npz", "data/mine", "mine"])
def test_other_files_in_data_change_no_fingerprint(data, source):
    (data / "mine").mkdir()
    before = fingerprint(source)
    (data / "notes.txt").write_text("to do")
    (data / "others").mkdir()
    (data / "others/cat.png").touch()
    assert fingerprint(source) == before


@pytest.mark.parametrize("source", ["data/mine", "mine", "mine.npz"])
def test_the_named_file_or_folder_does(data, source):
    (data / "mine").mkdir()
    (data / "mine.npz").touch()
    before = fingerprint(source)
    (data / "mine/cat.png").write_text("a cat")
    (data / "mine.npz").write_text("cats")
    assert fingerprint(source) != before


def test_of_data_pretrain_reads_the_given_model_alone():
    config = pretrain.Config(**RAW["pretrain"]["base"] | {"checkpoint": "data/mine"})
    assert pretrain.inputs(config, "mine") == {"data": "artifacts/prepare", "checkpoint": "data/mine"}
    assert pretrain.inputs(pretrain.Config(**RAW["pretrain"]["base"]), "mine") == {
        "data": "artifacts/prepare"
    }


@pytest.mark.parametrize("source", ["/etc", "data/../artifacts", "ftp/../../x"])
def test_a_source_outside_of_data_is_refused_before_any_work(source):
    with pytest.raises(UserError, match="lies outside data/, where changes go unseen; copy it there"):
        checks.check(settings(source))


@pytest.mark.parametrize(("count", "held_out"), [(100, 0.001), (8, 0.25)])
def test_a_split_that_no_metric_could_use_is_refused_before_anything_is_made(tmp_path, count, held_out):
    config = prepare.Config(source="two_moons", source_options={"count": count}, held_out=held_out)
    job = job_in(tmp_path, "prepare", out=tmp_path / "not made")
    with pytest.raises(UserError, match=rf"held_out {held_out} of {count} .*but 7 and 2 are needed"):
        prepare.run(config, job)
    assert not job.out.exists()


def test_a_shard_takes_no_more_memory_for_larger_samples(tmp_path, monkeypatch):
    monkeypatch.setattr(recipe, "SHARD_BYTES", 30 * (2 * 4 + 8))  # two features and a label
    options = {"source_options": {"count": 100}}
    job = job_in(tmp_path, "prepare", out=tmp_path / "out")
    prepare.run(prepare.Config(source="two_moons", **options), job)
    sizes = {name: [file.samples for file in Shards(job.out / name).files] for name in ("train", "held_out")}
    assert sizes == {"train": [30, 30, 15], "held_out": [25]}
