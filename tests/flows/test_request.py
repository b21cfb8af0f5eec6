import os
import shlex
from concurrent.futures import ThreadPoolExecutor
from inspect import signature
from threading import Barrier

import pytest
from cyclopts import Token
from workspace import CHECKOUT

from fewstep import command_line
from fewstep.errors import UserError
from flows import pipeline, run, sweep
from flows.planning.request import Request, documentation, settings
from stages.tracking import lineage, outboxes, recording

PARAMETERS = {"start_from", "only", "force", "overrides", "experiment", "dry_run"}


@pytest.fixture
def asked(monkeypatch):
    """Return what `fewstep run` would run, by the words of its command line."""

    def decode(*words):
        found = []
        monkeypatch.setattr(run, "run", lambda root, request: found.append(request))
        with pytest.raises(SystemExit) as ended:
            command_line.main(["run", *words])
        assert ended.value.code == 0
        return found[0]

    monkeypatch.chdir(CHECKOUT)
    return decode


def test_the_command_line_says_what_the_flow_takes(asked):
    words = ("--start-from", "couple", "--force", "--set", "seed=3", "--set", "a.b=[1, x]", "--dry-run")
    wanted = Request(start_from="couple", force=True, overrides={"seed": 3, "a.b": [1, "x"]}, dry_run=True)
    assert asked(*words) == wanted
    assert asked() == Request()


def test_the_flow_has_the_parameters_of_a_request_flat_and_hands_them_on(monkeypatch):
    form = pipeline.pipeline.parameters.properties
    assert form.keys() == {"root"} | PARAMETERS
    assert form["overrides"] == {
        "title": "overrides",
        "type": "object",
        "additionalProperties": True,
        "default": {},
        "position": 4,
        "description": documentation(Request)["overrides"],
    }
    assert signature(pipeline.pipeline.fn).parameters.keys() == {"root"} | PARAMETERS
    assert sweep.sweep.parameters.properties.keys() == {"root", "grid", "variants", "experiment"}


@pytest.mark.parametrize("flow", [pipeline.pipeline, sweep.sweep])
def test_every_parameter_is_described_in_the_form_of_the_ui(flow):
    for name, shown in flow.parameters.properties.items():
        assert len(shown.get("description", "")) > 20, name


@pytest.mark.parametrize(
    ("option", "word", "told"),
    [
        ("--set", "seed", "needs KEY=VALUE, such as seed=1, got 'seed'"),
        ("--grid", "seed", "needs KEY=VALUE, such as seed=[0,1], got 'seed'"),
        ("--grid", "a=[1,", "; put the word in quotes"),
        ("--set", "a={b: 1", "; put the word in quotes"),
        ("--set", "a='b", "a='b is no valid YAML: line"),
    ],
)
def test_an_override_must_be_key_and_value(option, word, told):
    with pytest.raises(UserError) as caught:
        settings(dict, [Token(keyword=option, value=word)])
    assert told in str(caught.value)
    assert ("in quotes" in str(caught.value)) == ("in quotes" in told)


@pytest.mark.parametrize("option", ["--set", "--grid"])
def test_a_key_that_is_given_twice_is_refused(option):
    with pytest.raises(UserError) as caught:
        settings(dict, [Token(keyword=option, value=word) for word in ("seed=[0]", "a=1", "seed=[2]")])
    assert str(caught.value) == "seed=[2]: seed has a value already; give it one"


@pytest.mark.parametrize(
    ("request_", "failed", "rest"),
    [
        (Request(), ["a"], "--start-from a"),
        (Request(), ["a", "b"], ""),
        (Request(start_from="a"), ["b"], "--start-from b"),
        (Request(start_from="a"), ["b", "c"], "--start-from b,c"),
        (Request(only="a"), ["a"], "--only a"),
        (Request(only="a", force=True), ["a@x", "a@y"], "--only a@x,a@y --force"),
        (Request(only="a,b", force=True), ["a@x", "b"], "--only a@x,b --force"),
        (Request(only="a", force=True), ["above"], "--only a --force"),
        (Request(force=True), ["a", "b"], "--start-from a,b --force"),
        (Request(start_from="a", force=True), ["b"], "--start-from b --force"),
        (Request(only="a", force=True), ["a"], "--only a --force"),
        (
            Request(overrides={"a.b": "it's", "c": [1]}, experiment="mine"),
            ["a"],
            "--start-from a --set 'a.b=\"it'\"'\"'s\"' --set 'c=[1]' --experiment mine",
        ),
    ],
)
def test_the_command_that_continues_asks_for_the_same(asked, request_, failed, rest):
    command = request_.command(failed)
    assert command == f"fewstep run {rest}".strip()
    again = asked(*shlex.split(command)[2:])
    assert (again.overrides, again.experiment) == (request_.overrides, request_.experiment)


def test_variables_of_tracking_are_restored_after_a_run(monkeypatch):
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
