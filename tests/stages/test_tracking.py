"""Runs reach MLflow nested and linked, and a tracker that is down costs nothing."""

import json
import sqlite3
from importlib.util import find_spec

import pytest
from processes import kill, wait_for
from tracked_project import TrackedProject

from stages.tracking import outboxes, sender, tracking
from stages.tracking.outboxes import Outbox

# Not importorskip, which imports it, for seconds.
pytestmark = pytest.mark.skipif(find_spec("mlflow") is None, reason="no mlflow here")


@pytest.fixture(scope="module")
def tracked(mlflow_database, tmp_path_factory):
    """A project that ran whole, then again after one setting changed, with a SQLite tracker."""
    project = TrackedProject(tmp_path_factory.mktemp("tracked") / "project", mlflow_database).with_dvc()
    project.sh("dvc repro")
    project.edit("params.yaml", "two: {word: bye}", "two: {word: ciao}")
    project.sh("dvc repro")
    project.send()
    return project


def runs(project):
    """Return each run of the tracker as its tags, name, status and id, oldest first."""
    with sqlite3.connect(project.folder / ".fewstep/mlflow.db") as database:
        rows = database.execute(
            "select run_uuid, name, status, lifecycle_stage from runs order by start_time, rowid"
        ).fetchall()
        tags = database.execute("select run_uuid, key, value from tags").fetchall()
    found = {row[0]: dict(zip(("id", "name", "status", "lifecycle"), row, strict=True)) for row in rows}
    for run, key, value in tags:
        found[run][key.removeprefix("fewstep.").removeprefix("mlflow.")] = value
    return list(found.values())


def test_one_parent_for_each_repro_and_a_child_for_each_stage(tracked):
    found = runs(tracked)
    first, second = [run for run in found if run["outcome"] == "pipeline"]
    assert first["status"] == second["status"] == "FINISHED"
    children = [[r for r in found if r.get("parentRunId") == p["id"]] for p in (first, second)]
    assert [(r["name"], r["outcome"]) for r in children[0]] == [
        ("make", "ran"),
        ("use@one", "ran"),
        ("use@two", "ran"),
    ]
    assert sorted((r["name"], r["outcome"]) for r in children[1]) == [("make", "cached"), ("use@two", "ran")]
    assert all(r["status"] == "FINISHED" for r in found)


def test_a_cached_stage_is_linked_to_the_run_that_made_it(tracked):
    (origin,) = [r for r in runs(tracked) if (r["name"], r["outcome"]) == ("make", "ran")]
    (cached,) = [r for r in runs(tracked) if (r["name"], r["outcome"]) == ("make", "cached")]
    manifest = json.loads((tracked.folder / "artifacts/make/manifest.json").read_text())
    assert cached["source_run_id"] == origin["id"]
    assert cached["fingerprint"] == origin["fingerprint"] == manifest["fingerprint"]


def test_settings_numbers_pictures_and_files_are_there(tracked):
    (made,) = [r for r in runs(tracked) if (r["name"], r["outcome"]) == ("make", "ran")]
    with sqlite3.connect(tracked.folder / ".fewstep/mlflow.db") as database:
        params = dict(database.execute("select key, value from params where run_uuid=?", [made["id"]]))
        metrics = database.execute(
            "select step, value from metrics where key='loss' and run_uuid=? order by step", [made["id"]]
        ).fetchall()
    assert params["parts"] == "3"
    assert params["seed"] == "0"
    assert metrics == [(0, 1.0), (1, 1 / 2), (2, 1 / 3)]
    names = [f.name for f in tracked.folder.glob(f".fewstep/mlartifacts/{made['id']}/artifacts/*/*")]
    assert sorted(names) == ["manifest.json", "sheet.png", "trace-1"]
    assert len(made["source.git.commit"]) == 40


def test_final_results_are_recorded_under_names_apart_from_curves(tracked):
    (made,) = [r for r in runs(tracked) if (r["name"], r["outcome"]) == ("make", "ran")]
    with sqlite3.connect(tracked.folder / ".fewstep/mlflow.db") as database:
        names = database.execute("select distinct key from metrics where run_uuid=?", [made["id"]]).fetchall()
    assert sorted(names) == [("loss",), ("result.parts",)]


def test_nothing_of_the_tracker_is_in_the_outputs(tracked):
    text = b"".join(tracked.files("artifacts").values()).decode(errors="replace")
    assert not [run["id"] for run in runs(tracked) if run["id"] in text]


@pytest.fixture
def project(tmp_path, mlflow_database):
    """A project that never ran, with an empty tracker."""
    return TrackedProject(tmp_path / "project", mlflow_database)


def test_a_stage_ends_without_waiting_for_delivery(tmp_path, monkeypatch):
    monkeypatch.setattr(tracking, "start_sender", lambda root: None)
    monkeypatch.setattr(tracking.time, "sleep", lambda seconds: pytest.fail("waited"))
    tracking.link_cached(tmp_path, [])
    outbox = Outbox(tmp_path, "make")
    outbox.add("measure", step=0, values={})
    outbox.close()
    assert outboxes.waiting(outboxes.folder(tmp_path))
    assert tracking.send(tmp_path, seconds=0) is None


def test_an_unreachable_tracker_fails_nothing(project):
    project.record_at(MLFLOW_TRACKING_URI="http://user:hunter2@127.0.0.1:9")
    project.sh("python -m stages.make")
    project.send()
    said = project.sh("python -m stages.use one")
    assert "use@one: tracking: the tracker is down" in said
    assert "the records of make, use@one wait in" in said
    assert said.count("tracking:") == 1
    assert len(list(project.folder.glob(".fewstep/outbox/*.jsonl"))) == 2  # kept for a better day
    assert b"hunter2" not in b"".join(project.files(".fewstep").values())
    assert "hunter2" not in said


def test_undelivered_events_are_sent_later_and_a_killed_run_is_ended(project):
    project.edit("params.yaml", "{parts: 3}", "{parts: 30, seconds: 0.2}")
    stage = project.begin("python", "-m", "stages.make")
    wait_for(lambda: list(project.folder.glob(".fewstep/scratch/make.*/out/part-1.txt")))
    kill(stage.pid)
    stage.wait()
    project.send()
    (made,) = [r for r in runs(project) if r["outcome"] == "ran"]
    assert made["status"] == "KILLED"


@pytest.mark.parametrize("word", ["false", "0", "OFF"])
def test_a_switch_that_is_neither_on_nor_off_is_refused(project, word):
    said = project.sh(f"FEWSTEP_TRACKING={word} python -m stages.make", ok=False)
    assert f"FEWSTEP_TRACKING must be on or off, got '{word}'" in said
    assert "Traceback" not in said
    assert not outboxes.waiting(outboxes.folder(project.folder))


def test_inputs_from_elsewhere_have_an_unknown_origin(project):
    project.sh("FEWSTEP_TRACKING=off python -m stages.make")
    project.sh("python -m stages.use one")
    project.sh("python -m stages.use one")  # made before, so another link
    project.send()
    found = runs(project)
    origins = [(r["name"], r["source_run_id"]) for r in found if r["outcome"] == "cached"]
    (ran,) = [r["id"] for r in found if r["outcome"] == "ran"]
    assert sorted(origins) == [("make", "origin unknown"), ("make", "origin unknown"), ("use@one", ran)]
    assert {r["status"] for r in found} == {"FINISHED"}


def test_a_flow_links_what_it_found_made(project):
    project.sh("FEWSTEP_PIPELINE=first python -m stages.make")
    project.senders.release()  # a flow waits for one
    project.sh(
        'FEWSTEP_PIPELINE=second python -c "'
        "from pathlib import Path; from stages.artifacts import manifests;"
        "from stages.tracking import tracking;"
        "tracking.link_cached(Path.cwd(), [manifests.read(Path('artifacts/make'))]);"
        'assert tracking.send(Path.cwd(), 300) is None"'
    )
    project.wait_for_senders()
    first, second = [r for r in runs(project) if r["name"] == "make"]
    assert (first["pipeline"], first["outcome"]) == ("first", "ran")
    assert (second["pipeline"], second["outcome"]) == ("second", "cached")
    assert second["source_run_id"] == first["id"]


def test_a_result_is_linked_to_its_origin_in_another_experiment(project):
    project.sh("python -m stages.make")
    project.send()
    project.record_at(MLFLOW_EXPERIMENT_NAME="another")
    project.sh("python -m stages.use one")
    project.send()
    (origin,) = [run for run in runs(project) if (run["name"], run["outcome"]) == ("make", "ran")]
    (cached,) = [run for run in runs(project) if (run["name"], run["outcome"]) == ("make", "cached")]
    assert cached["source_run_id"] == origin["id"]


@pytest.fixture
def tracker(project, monkeypatch):
    """The empty tracker of the project, in this process."""
    from stages.tracking.mlflow_runs import Tracker

    return Tracker(project.folder, None, "fewstep")


def stage(project, tracker, name, *, ends="", params=None, link=False):
    """Deliver what a stage tells; without an end it is killed."""
    outbox = Outbox(project.folder, name)
    tags = {"fewstep.fingerprint": name, "fewstep.outcome": "cached" if link else "ran"}
    about = {"pipeline": "p", "pipeline_name": "p", "address": name, "tags": tags}
    outbox.add("link" if link else "begin", params=params or {}, **about)
    if not link:
        (project.folder / "manifest.json").write_text("{}")
        outbox.attach("output", "manifest.json", project.folder / "manifest.json")
        outbox.add("measure", step=1, values={"loss": 0.5})
    if ends:
        outbox.add("end", status=ends)
    outbox.close()
    sender.deliver(tracker, outbox.file, live=False)
    assert not list(outboxes.folder(project.folder).glob(f"*{name}*"))


def statuses(project):
    return [(run["name"], run["status"]) for run in runs(project)]


@pytest.mark.parametrize(("ends", "status"), [("FAILED", "FAILED"), ("", "KILLED")])
def test_a_pipeline_failed_until_its_failed_stage_passes(project, tracker, ends, status):
    stage(project, tracker, "make", ends="FINISHED")
    stage(project, tracker, "one", ends=ends)
    assert ("p", status) in statuses(project)
    stage(project, tracker, "two", ends="FINISHED")  # began and ended after the failure
    stage(project, tracker, "make", link=True)
    assert ("p", status) in statuses(project)
    stage(project, tracker, "one", ends="FINISHED")
    assert ("p", "FINISHED") in statuses(project)


def test_a_stage_that_failed_after_its_work_passes_by_publishing_it(project, tracker):
    stage(project, tracker, "make", ends="FAILED")
    stage(project, tracker, "make", link=True)
    assert sorted(statuses(project)) == [("make", "FAILED"), ("make", "FINISHED"), ("p", "FINISHED")]
    stage(project, tracker, "make", link=True)
    assert len(runs(project)) == 3


def active(project):
    return [run for run in runs(project) if run["lifecycle"] == "active"]


def test_two_machines_that_begin_a_pipeline_at_once_make_one(project, tracker, monkeypatch):
    stage(project, tracker, "make", ends="FINISHED")
    find, asked = tracker.find, []

    def too_early(**tags):
        asked.append(tags)
        return find(**tags) if len(asked) > 1 else []

    monkeypatch.setattr(tracker, "find", too_early)
    stage(project, tracker, "two", ends="FINISHED")
    (parent,) = [run for run in active(project) if run["outcome"] == "pipeline"]
    assert [run["name"] for run in active(project) if run.get("parentRunId") == parent["id"]] == [
        "make",
        "two",
    ]


def test_an_experiment_that_another_machine_has_just_made_serves(project, tracker, monkeypatch):
    look, asked = tracker.client.get_experiment_by_name, []

    def too_early(name):
        asked.append(name)
        return look(name) if len(asked) > 1 else None

    monkeypatch.setattr(tracker.client, "get_experiment_by_name", too_early)
    assert tracker.have_experiment("fewstep", None) == tracker.experiment


def test_a_cached_link_is_replaced_by_the_run_that_is_recorded_later(project, tracker):
    stage(project, tracker, "make", link=True)
    stage(project, tracker, "make", ends="FINISHED")
    stage(project, tracker, "make", link=True)
    (made,) = [run for run in active(project) if run["name"] == "make"]
    assert made["outcome"] == "ran"
