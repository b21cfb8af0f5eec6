import json
import os
from collections import Counter

import pytest
from dvc.dependency import ParamsDependency, param

from fewstep.errors import UserError
from flows import commands, why
from flows.dvc import params_read

UP_TO_DATE: list[str] = []


def test_stages_that_never_ran_are_called_so(toy):
    assert why.why(toy.root) == {stage: ["never run here"] for stage in toy.stages}


def test_stages_that_did_not_change_are_up_to_date(toy_that_ran):
    assert why.why(toy_that_ran.root) == dict.fromkeys(toy_that_ran.stages, UP_TO_DATE)


def test_a_stage_whose_output_another_dvc_writes_is_not_judged(toy_that_ran):
    writer = {"pid": os.getppid(), "cmd": "dvc repro first"}
    locks = toy_that_ran.root / ".dvc/tmp/rwlock"
    locks.write_text(json.dumps({"write": {str(toy_that_ran.root / "artifacts/first"): writer}, "read": {}}))
    with pytest.raises(
        UserError,
        match=rf"artifacts/first is being written by process {os.getppid()} \(dvc repro first\), and",
    ):
        why.why(toy_that_ran.root)
    locks.unlink()
    assert why.why(toy_that_ran.root)["first"] == UP_TO_DATE


def test_a_setting_is_named_with_its_old_and_new_value_and_what_waits_for_it_too(toy_that_ran):
    toy_that_ran.edit("params.yaml", "steps: 5, rate: 0.1", "steps: 5, rate: 2.0e-3")
    assert why.why(toy_that_ran.root) == {
        "first": ["first.train.rate 0.1 -> 0.002 in params.yaml"],
        "middle@left": ["input artifacts/first may change (first is stale)"],
        "middle@right": ["input artifacts/first may change (first is stale)"],
        "last": ["input artifacts/middle may change (middle@left, middle@right are stale)"],
    }


def test_one_key_of_a_foreach_makes_only_its_own_stage_stale(toy_that_ran):
    toy_that_ran.edit("params.yaml", "left: {width: 1}", "left: {width: 1, colour: red}")
    assert why.why(toy_that_ran.root) == {
        "first": UP_TO_DATE,
        "middle@left": ['middle.left.colour (not set) -> "red" in params.yaml'],
        "middle@right": UP_TO_DATE,
        "last": ["input artifacts/middle may change (middle@left is stale)"],
    }


def test_version_input_output_and_command(toy_that_ran):
    toy_that_ran.edit("work.py", "VERSION = 1", "VERSION = 2")
    (toy_that_ran.root / "data" / "a").write_text("2")
    toy_that_ran.edit("dvc.yaml", "work.py last", "work.py  last")
    toy_that_ran.sh("rm -r artifacts/last")
    found = why.why(toy_that_ran.root)
    assert found["first"] == ["VERSION 1 -> 2 in work.py", "input data has changed"]
    assert found["last"][1:] == ["output artifacts/last is missing", "changed command in dvc.yaml"]


def test_an_upstream_that_ran_alone_leaves_the_next_with_a_changed_input(toy_that_ran):
    toy_that_ran.edit("params.yaml", "steps: 5", "steps: 6")
    toy_that_ran.sh("dvc repro -q -s first")
    found = why.why(toy_that_ran.root)
    assert found["first"] == UP_TO_DATE
    assert found["middle@left"] == ["input artifacts/first has changed"]


@pytest.mark.parametrize(
    ("before", "now", "found"),
    [
        ({"a": {"b": 1}}, {"a": {"b": 1}}, []),
        ({"a": {"b": 1}}, {"a": {}}, [("a.b", 1, why.MISSING)]),
        ({"a": {"b": 1}}, {"a": "text"}, [("a", {"b": 1}, "text")]),
        ({"a": [1, 2]}, {"a": [1, 3]}, [("a", [1, 2], [1, 3])]),
    ],
)
def test_differences_are_reported_leaf_by_leaf(before, now, found):
    assert list(why.differences(before, now)) == found


def test_why_prints_a_line_for_each_stage(toy_that_ran, monkeypatch, capsys):
    toy_that_ran.edit("params.yaml", "width: 3", "width: 4")
    monkeypatch.chdir(toy_that_ran.root)
    commands.why()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines if line.startswith(("first", "last"))] == [
        ["first", "up", "to", "date"],
        ["last", "last.width", "3", "->", "4", "in", "params.yaml"],
    ]


def test_settings_are_read_once_however_many_stages_there_are(toy_that_ran, monkeypatch):
    read, load = Counter(), param.load_path

    def counted(path, *arguments, **options):
        read[path.rpartition("/")[2]] += 1
        return load(path, *arguments, **options)

    monkeypatch.setattr(param, "load_path", counted)
    assert why.why(toy_that_ran.root) == dict.fromkeys(toy_that_ran.stages, UP_TO_DATE)
    assert read == {"params.yaml": 1, "work.py": 1}
    assert param.load_path is counted


@pytest.mark.parametrize(
    ("keys", "fallback"),
    [
        (["seed", "first.train.steps"], False),
        (["first.train", "none"], True),
        (["middle.*.width"], True),
        (["lists.1"], True),
        (["seed.deeper"], True),
    ],
)
def test_settings_are_found_as_dvc_finds_them(keys, fallback):
    tree = {"seed": 0, "first": {"train": {"steps": 5}}, "middle": {"left": {"width": 1}}, "lists": [3, 4]}
    found = params_read.values(tree, keys)
    assert (found == {}) == fallback  # where it is DVC that looks
    if not fallback:
        assert found == {"seed": 0, "first.train.steps": 5}


def test_dvc_reads_parameters_by_the_functions_that_are_replaced():
    assert {"read_param_file"} <= set(ParamsDependency.read_params.__code__.co_names)
    assert {"load_path"} <= set(param.read_param_file.__code__.co_names)
