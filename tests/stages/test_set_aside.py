"""What the tracker does not take, or a damaged file holds, is kept and told; it delays nothing else."""

import os
import shutil
import signal
import sqlite3
import time
from importlib.util import find_spec

import pytest
from filelock import FileLock

from fewstep.errors import UserError
from stages.tracking import outboxes, sender, tracking
from stages.tracking.outboxes import Outbox

# Not importorskip, which imports it, for seconds.
pytestmark = pytest.mark.skipif(find_spec("mlflow") is None, reason="no mlflow here")


@pytest.fixture
def root(tmp_path, mlflow_database, monkeypatch):
    """A checkout with an empty tracker, below a folder whose name is no plain text in an address."""
    root = tmp_path / "a%20b" / "c?d#e"
    (root / ".fewstep").mkdir(parents=True)
    shutil.copy(mlflow_database, root / ".fewstep/mlflow.db")
    monkeypatch.setattr(tracking, "start_sender", lambda root: None)
    return root


def record(root, name, attached=1, **params):
    """Record what a stage tells, and some files; return its outbox file."""
    outbox = Outbox(root, name)
    tags = {"fewstep.fingerprint": name, "fewstep.outcome": "ran"}
    outbox.add("begin", params=params, pipeline="p", pipeline_name="p", address=name, tags=tags)
    (root / "manifest.json").write_text("{}")
    for file in ("manifest.json", "more.json", "most.json")[:attached]:
        outbox.attach("output", file, root / "manifest.json")
    outbox.add("measure", step=1, values={"loss": 0.5})
    outbox.add("end", status="FINISHED")
    outbox.close()
    return outbox.file


def serve(root):
    sender.serve(root, outboxes.folder(root))


def recorded(root):
    """Return the status of each stage's run by its name."""
    with sqlite3.connect(root / ".fewstep/mlflow.db") as database:
        rows = database.execute("select name, status from runs where lifecycle_stage = 'active'").fetchall()
    return {name: status for name, status in rows if name != "p"}


def kept(root):
    return sorted(file.name for file in (outboxes.folder(root) / outboxes.REFUSED).glob("*"))


def test_a_path_that_is_no_plain_text_in_an_address_is_tracked(root):
    record(root, "make")
    serve(root)
    assert recorded(root) == {"make": "FINISHED"}
    assert list(root.glob(".fewstep/mlartifacts/*/artifacts/output/manifest.json"))
    assert tracking.send(root, seconds=0) is None
    assert not list(outboxes.folder(root).glob("*make*"))


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda content: content.replace(b'"measure"', b"\0" * 9), "a line is damaged"),
        (lambda content: content + b"\0" * 512, "the last line is cut off"),
        (lambda content: content[:-9], "the last line is cut off"),
        (lambda content: content.replace(b'"values"', b'"valves"'), "measure: KeyError: 'values'"),
        (lambda content: content.replace(b'"manifest.json"', b'"manifest.j\xff"'), ""),
        (
            lambda content: content.replace(
                b'{"event": "measure"', b'["event", "measure"]\n{"event": "mess"'
            ),
            "a line",
        ),
        (lambda content: content.replace(b'manifest.json"', b'manifest.gone"'), "file: FileNotFoundError"),
    ],
)
def test_the_good_lines_of_a_damaged_file_are_delivered_and_it_is_kept(root, damage, told):
    file = record(root, "make")
    file.write_bytes(damage(file.read_bytes()))
    content = file.read_bytes()
    record(root, "use@one")
    serve(root)
    assert {"make", "use@one"} <= recorded(root).keys()
    if told:
        assert kept(root) == [file.stem, file.name, f"{file.stem}.why"]
        assert (file.parent / outboxes.REFUSED / file.name).read_bytes() == content
        warning = tracking.send(root, seconds=0)
        assert f"the tracker refused records of make ({told}" in warning
        assert str(file.parent / outboxes.REFUSED) in warning
    assert not outboxes.waiting(file.parent)


def test_a_folder_in_place_of_a_file_delays_nothing(root):
    file = record(root, "make")
    file.unlink()
    file.mkdir()
    record(root, "use@one")
    serve(root)
    assert recorded(root) == {"use@one": "FINISHED"}
    assert "(IsADirectoryError" in tracking.send(root, seconds=0)


@pytest.mark.parametrize("note", [b"", b"\0" * 60, b"[]", b'{"offset": 7}', b"{"])
def test_a_damaged_note_of_how_far_delivery_got_costs_nothing(root, note):
    file = record(root, "make")
    tracker = sender.connect(root)
    sender.deliver(tracker, file, live=True)
    file.with_suffix(".sent").write_bytes(note)
    serve(root)
    assert recorded(root) == {"make": "FINISHED"}
    with sqlite3.connect(root / ".fewstep/mlflow.db") as database:
        assert database.execute("select count(*) from metrics").fetchall() == [(1,)]
    assert tracking.send(root, seconds=0) is None


def test_events_that_the_tracker_refuses_are_kept_and_can_be_sent_again(root):
    file = record(root, "make", **{"no*such*name": 1})
    serve(root)
    assert recorded(root) == {"make": "FINISHED"}  # all but these settings
    assert list(root.glob(".fewstep/mlartifacts/*/artifacts/output/manifest.json"))
    assert "(begin: MlflowException: Invalid value" in tracking.send(root, seconds=0)
    for part in (file.parent / outboxes.REFUSED).iterdir():
        if part.suffix == ".jsonl":
            part.write_text(part.read_text().replace("no*such*name", "a-name"))
        part.rename(file.parent / part.name)
    serve(root)
    assert kept(root) == []
    assert not list(file.parent.glob("*make*"))
    assert tracking.send(root, seconds=0) is None
    assert recorded(root) == {"make": "FINISHED"}


@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_a_deleted_experiment_takes_nothing_and_loses_nothing(root, when, monkeypatch):
    tracker = sender.connect(root)
    tracker.client.delete_experiment(tracker.experiment)
    file = record(root, "make")
    if when == "meanwhile":
        monkeypatch.setattr(sender, "connect", lambda root: tracker)
    serve(root)
    assert file.exists()
    assert kept(root) == []
    warning = tracking.send(root, seconds=0)
    assert "restore it with `mlflow experiments restore --experiment-id 1`" in warning
    assert "the records of make wait in" in warning
    tracker.client.restore_experiment(tracker.experiment)
    serve(root)
    assert recorded(root) == {"make": "FINISHED"}
    assert tracking.send(root, seconds=0) is None


def test_a_tracker_that_hangs_is_reported_and_loses_nothing(root, monkeypatch):
    file = record(root, "make")
    monkeypatch.setattr(sender, "HANGING", 1)
    monkeypatch.setattr(sender, "connect", lambda root: time.sleep(60))
    serve(root)
    assert "(TimeoutError: it has not answered for 1 s)" in tracking.send(root, seconds=0)
    assert file.exists()


def test_many_files_may_take_longer_than_one_that_hangs(root, monkeypatch):
    now, end = 0, None

    def alarm(seconds):
        nonlocal end
        end = now + seconds if seconds else None

    def upload(run, path, folder):
        nonlocal now
        now += sender.HANGING - 1
        if end is not None and now > end:
            sender.give_up(signal.SIGALRM, None)
        log_artifact(run, path, folder)

    tracker = sender.connect(root)
    log_artifact = tracker.client.log_artifact
    monkeypatch.setattr(tracker.client, "log_artifact", upload)
    monkeypatch.setattr(sender, "connect", lambda root: tracker)
    monkeypatch.setattr(sender.signal, "alarm", alarm)
    for name in ("make", "use@one"):
        record(root, name, attached=3)
    serve(root)
    assert recorded(root) == {"make": "FINISHED", "use@one": "FINISHED"}
    assert len(list(root.glob(".fewstep/mlartifacts/*/artifacts/output/*"))) == 6


def test_a_delivery_that_takes_too_long_is_reported_to_whoever_waits(root):
    record(root, "make")
    assert tracking.send(root, seconds=0) is None
    assert "delivery takes long; the records of make wait in" in tracking.send(root, seconds=0.01)
    with FileLock(outboxes.lock_of(record(root, "use@one"))):  # of a stage that runs, and waits for nothing
        assert "use@one" not in tracking.send(root, seconds=0.01)


def test_an_error_of_the_sender_itself_is_reported_in_one_line():
    assert sender.told(UserError("mend it\nlike this")) == "mend it"


def test_a_note_of_the_sender_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    flushed = []
    monkeypatch.setattr(os, "fsync", lambda handle: flushed.append(os.fstat(handle).st_ino))
    sender.write(tmp_path / "make.sent", "{}")
    assert flushed[0] == (tmp_path / "make.sent").stat().st_ino
