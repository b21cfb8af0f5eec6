"""What one stage needs is asked before any stage runs: files, libraries, as many samples as a batch."""

import copy
from pathlib import Path

import pytest
import yaml

from fewstep.errors import UserError
from flows import commands
from stages.settings import checks
from stages.settings.own_files import must_be_there
from stages.settings.params import Params
from stages.settings.trainings import must_share_batches

DEMO = yaml.safe_load(Path("params.yaml").read_text())


def demo(**changes):
    """Return the settings of the demo, some of a section's key changed."""
    raw = copy.deepcopy(DEMO)
    for place, values in changes.items():
        section, key = place.split("__")
        settings = raw[section].setdefault(key.replace("_at_", "-"), {})
        settings |= copy.deepcopy(values)
    return raw


EIGHT_BIT = {"train": {"steps": 1, "moments": "8bit"}}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"couple__round1": {"pairs": 100}},
            "reflow.round1.train.batch 128 is more than it learns from: couple.round1.pairs is 100; lower",
        ),
        (
            {"trajectories__base": {"samples": 127}},
            "distill.any-step.train.batch 128 is more than it learns from: trajectories.base.samples is 127",
        ),
        ({"pretrain__base": EIGHT_BIT}, "pretrain.base.train.moments 8bit needs torchao: pip install"),
        ({"reflow__round1": EIGHT_BIT}, "reflow.round1.train.moments 8bit needs torchao"),
        ({"distill__any_at_step": EIGHT_BIT}, "distill.any-step.train.moments 8bit needs torchao"),
    ],
)
def test_a_training_that_could_not_begin_is_refused(changes, told):
    with pytest.raises(UserError) as caught:
        checks.check(Params(demo(**changes)))
    assert told in str(caught.value)


def test_pairs_of_a_file_may_be_more_than_asked_for():
    raw = demo()
    raw["couple"]["round1"] = {"model": "base", "pairs": 100, "source": "data/mine.npz"}
    checks.check(Params(raw))


NAMED = demo(
    pretrain__mine={"checkpoint": "data/mine"},
    evaluate__features={"fid": {"file": "data/nets/inception.pt"}},
) | {"prepare": {"source": "cats/small"}}
ADDRESSES = ["prepare", "pretrain@base", "pretrain@mine", "evaluate", "a-stage-of-the-users"]


def test_each_file_that_is_missing_is_named_with_its_setting(tmp_path):
    with pytest.raises(UserError) as caught:
        must_be_there(NAMED, tmp_path, ADDRESSES)
    assert str(caught.value).splitlines() == [
        "params.yaml names what can't be read:",
        "  prepare.source: source 'cats/small': there is no folder data/cats/small; put it there",
        "  pretrain.mine.checkpoint 'data/mine' is not there; put it there, or name another",
        "  evaluate.features.fid.file 'data/nets/inception.pt' is not there; put it there, or name another",
    ]
    must_be_there(NAMED, tmp_path, ["pretrain@base"])  # which names none


@pytest.mark.parametrize(
    ("source", "told"),
    [
        (
            "two_mons",
            ": unknown source 'two_mons'; did you mean 'two_moons'? (there are: checkerboard, digits, "
            "eight_gaussians, patches, two_moons, mine.npz); a file or folder of your own goes under data/",
        ),
        ("cats.npz", ": source 'cats.npz': there is no file data/cats.npz; put it there"),
        ("data/two_mons", " 'data/two_mons' is not there; put it there, or name another"),
    ],
)
def test_a_misspelt_source_is_told_as_the_user_wrote_it(tmp_path, source, told):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/mine.npz").touch()
    with pytest.raises(UserError) as caught:
        must_be_there({"prepare": {"source": source}}, tmp_path, ["prepare"])
    assert str(caught.value).splitlines()[1:] == [f"  prepare.source{told}"]


def test_files_that_dvc_can_fetch_may_be_missing_and_linked_folders_may_not(tmp_path):
    (tmp_path / "data/nets").mkdir(parents=True)
    (tmp_path / "data/nets/inception.pt").touch()
    (tmp_path / "data/cats.dvc").touch()
    (tmp_path / "data/mine").symlink_to(tmp_path / "data/nets")
    with pytest.raises(UserError) as caught:
        must_be_there(NAMED, tmp_path, ADDRESSES)
    _, line = str(caught.value).splitlines()
    assert line.startswith("  pretrain.mine.checkpoint: data/mine is a link to a folder, through which")


def test_the_command_check_asks_for_the_files_of_all_stages(tmp_path, monkeypatch):
    raw = demo() | {"prepare": {"source": "data/mine.npz", "held_out": 0.25}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(raw))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"prepare\.source 'data/mine\.npz' is not there; put it there"):
        commands.check()


@pytest.mark.parametrize(
    "variables", [{"FEWSTEP_PROCESSES": "6"}, {"FEWSTEP_PROCESSES": "2", "FEWSTEP_NODES": "3"}]
)
def test_trainings_whose_batches_processes_cannot_share_are_named_before_any_stage_runs(
    monkeypatch, variables
):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    taken = {"checkpoint": "data/mine", "train": {"steps": 1, "batch": 128}}  # which trains nothing
    params = Params(demo(pretrain__base={"train": {"steps": 1, "batch": 96}}, pretrain__mine=taken))
    addresses = [*ADDRESSES, "nets", "pretrain@base", "reflow@round1", "distill@boss-4"]
    with pytest.raises(UserError) as caught:
        must_share_batches(params, addresses)
    assert str(caught.value).splitlines() == [
        "6 processes (FEWSTEP_PROCESSES, FEWSTEP_NODES) can't share these batches equally:",
        "  reflow.round1.train.batch is 128; set it to a multiple of 6",
        "  distill.boss-4.train.batch is 128; set it to a multiple of 6",
    ]
    must_share_batches(params, ["prepare", "pretrain@base", "evaluate"])
