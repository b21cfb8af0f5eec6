import os
import shlex
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from fewstep.errors import UserError
from flows import pipeline
from flows.planning.request import Request, options
from stages.tracking import lineage, outboxes, recording


def test_the_command_line_says_what_the_flow_takes():
    asked = options(
        ["--start-from", "couple", "--force", "--set", "seed=3", "--set", "a.b=[1, x]", "--dry-run"]
    )
    assert asked == {
        "start_from": "couple",
        "only": None,
        "force": True,
        "overrides": {"seed": 3, "a.b": [1, "x"]},
        "experiment": None,
        "dry_run": True,
    }
    assert asked.keys() == pipeline.pipeline.parameters.properties.keys() - {"root"}


def test_every_parameter_is_described_in_the_form_of_the_ui():
    for name, shown in pipeline.pipeline.parameters.properties.items():
        assert len(shown.get("description", "")) > 20, name


@pytest.mark.parametrize(
    ("words", "told"), [(["--set", "seed"], "key=value.*got 'seed'"), (["--set", "a=["], "'\\[' is no value")]
)
def test_an_override_must_be_key_and_value(words, told):
    with pytest.raises(UserError, match=told):
        options(words)


@pytest.mark.parametrize(
    ("request_", "failed", "rest"),
    [
        (Request(), ["a"], "--start-from a"),
        (Request(), ["a", "b"], ""),
        (Request(start_from="a"), ["b"], "--start-from b"),
        (Request(only="a"), ["a"], "--only a"),
        (
            Request(overrides={"a.b": "it's", "c": [1]}, experiment="mine"),
            ["a"],
            "--start-from a --set 'a.b=\"it'\"'\"'s\"' --set 'c=[1]' --experiment mine",
        ),
    ],
)
def test_the_command_that_goes_on_asks_for_the_same(request_, failed, rest):
    command = request_.command(failed)
    assert command == f"python -m flows.pipeline {rest}".strip()
    asked = options(shlex.split(command)[3:])
    assert (asked["overrides"], asked["experiment"]) == (request_.overrides, request_.experiment)


def test_what_is_recorded_where_is_as_before_when_a_run_is_over(monkeypatch):
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "old")
    monkeypatch.delenv("FEWSTEP_PIPELINE", raising=False)
    with Request(experiment="new").recorded("run-1"):
        assert outboxes.experiment() == "new"
        assert lineage.pipeline_id() == "run-1"
        assert recording.environment() == os.environ | {
            "MLFLOW_EXPERIMENT_NAME": "new",
            "FEWSTEP_PIPELINE": "run-1",
        }
    assert outboxes.experiment() == "old"
    assert "FEWSTEP_PIPELINE" not in recording.environment()


def test_runs_side_by_side_are_recorded_each_under_its_own():
    both = Barrier(2)

    def recorded(name):
        with Request(experiment=name).recorded(f"run of {name}"):
            both.wait(60)  # until the other one's is said as well
            found = outboxes.experiment(), lineage.pipeline_id()
            both.wait(60)
        return found

    with ThreadPoolExecutor() as pool:
        assert list(pool.map(recorded, "ab")) == [("a", "run of a"), ("b", "run of b")]
