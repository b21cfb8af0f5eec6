"""Slots: a free one works ahead for a stage that waits, until a stage wants it."""

import threading

import pytest
from processes import wait_for

from flows.planning import slots

STAGE = """
import pathlib, sys, time
pathlib.Path("began").open("a").write(sys.argv[1] + "\\n")
print("at work", flush=True)
while not pathlib.Path("done").exists():
    time.sleep(0.02)
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a stage that can work ahead, and two slots."""
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages/__init__.py").touch()
    (tmp_path / "stages/last.py").write_text(STAGE)
    monkeypatch.setattr(slots, "able", lambda stage: stage == "last")
    monkeypatch.setattr(slots, "slots", slots.Slots(2))
    yield tmp_path
    (tmp_path / "done").touch()
    wait_for(lambda: slots.slots.free == 2)


def begun(place, said):
    """Return work ahead that has begun."""
    work = slots.WorkAhead(["first", "last"], place, said.append)
    work.finished()
    work.go_on()
    wait_for(lambda: "at work" in said)
    return work


def test_only_evaluate_can_work_ahead():
    assert slots.able("evaluate")
    assert not slots.able("distill")
    assert not slots.able("no stage")


def test_a_free_slot_works_ahead_again_when_something_is_new(place):
    said = []
    work = begun(place, said)
    assert slots.slots.free == 1
    work.finished()
    work.go_on()  # has begun already
    assert slots.slots.free == 1
    (place / "done").touch()
    wait_for(lambda: slots.slots.free == 2)
    work.go_on()
    wait_for(lambda: slots.slots.free == 2 and said == ["at work"] * 2)
    work.go_on()  # nothing is new
    assert slots.slots.free == 2
    assert (place / "began").read_text() == "--ahead\n" * 2


def test_a_stage_that_finds_no_slot_takes_it_back(place):
    begun(place, said := [])
    with slots.slots.taken():
        assert slots.slots.lent
        with slots.slots.taken():  # waits until the process has ended
            assert slots.slots.lent is None
            assert slots.slots.free == 0
    assert said == ["at work"]


def test_a_stage_that_begins_stops_its_own_work_ahead(place):
    work = begun(place, [])
    work.begun("first")
    assert slots.slots.lent is work
    work.begun("last")
    wait_for(lambda: slots.slots.free == 2)
    assert slots.slots.lent is None


def take_one():
    with slots.slots.taken():
        pass


def test_no_work_ahead_starts_while_a_stage_waits_or_if_no_stage_supports_it(place):
    work = slots.WorkAhead(["first"], place, print)
    work.finished()
    work.go_on()
    assert slots.slots.free == 2
    able = slots.WorkAhead(["last"], place, print)
    able.finished()
    with slots.slots.taken(), slots.slots.taken():
        third = threading.Thread(target=take_one)
        third.start()
        wait_for(lambda: slots.slots.wanted)
        able.go_on()
        assert slots.slots.lent is None
    third.join()


def test_no_work_ahead_starts_for_a_stage_that_has_begun(place):
    work = slots.WorkAhead(["last"], place, print)
    work.begun("last")
    work.finished()
    work.go_on()
    assert slots.slots.free == 2


def test_work_ahead_that_fails_is_reported_and_is_not_repeated(place):
    (place / "stages/last.py").write_text("import sys; sys.exit('the setting is wrong')")
    said = []
    work = slots.WorkAhead(["last"], place, said.append)
    work.finished()
    work.go_on()
    wait_for(lambda: slots.slots.free == 2 and said)
    work.go_on()
    assert said == ["the setting is wrong"]
