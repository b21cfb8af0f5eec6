"""The outbox on a disk that refuses it: the stage goes on, and says so at its end."""

from pathlib import Path

import pytest

from stages.tracking import outboxes
from stages.tracking.outboxes import Outbox


@pytest.fixture
def full_disk():
    """A file to which nothing can be written."""
    if not (device := Path("/dev/full")).exists():
        pytest.skip("this system has no /dev/full")
    return device.open("w", buffering=1)


def test_a_full_disk_fails_neither_events_nor_the_end(tmp_path, full_disk):
    outbox = Outbox(tmp_path, "make")
    outbox.add("begin")
    outbox.stream.close()
    outbox.stream = full_disk
    outbox.add("measure", step=1)
    outbox.add("measure", step=2)
    outbox.close()
    assert "No space left" in str(outbox.broken)
    assert not outboxes.live(outbox.file)  # so the sender takes what is there


def test_an_outbox_that_can_not_be_flushed_at_its_end_is_marked_broken(tmp_path, full_disk):
    outbox = Outbox(tmp_path, "make")
    outbox.stream.close()
    outbox.stream = full_disk
    full_disk.reconfigure(line_buffering=False)
    outbox.add("end", status="FINISHED")
    assert outbox.broken is None
    outbox.close()
    assert outbox.broken
    assert not outboxes.live(outbox.file)


def test_to_ask_whether_the_process_of_an_outbox_lives_leaves_no_lock(tmp_path):
    assert not outboxes.live(tmp_path / "make.jsonl")
    assert list(tmp_path.iterdir()) == []


def test_an_outbox_that_cannot_be_made_is_no_reason_to_stop(tmp_path):
    (tmp_path / ".fewstep").write_text("a file in its way")
    outbox = Outbox(tmp_path, "make")
    outbox.add("begin")
    outbox.attach("output", "manifest.json", tmp_path / "manifest.json")
    outbox.close()
    assert outbox.broken
