"""When the process that delivers the outbox ends: the next stage need not wait for mlflow to be imported."""

import pytest

from stages.tracking import outboxes, sender


class Clock:
    """A time that passes only while somebody sleeps, and what happens at some of its seconds."""

    def __init__(self, events):
        self.now, self.events = 100.0, events

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds
        for second in [s for s in self.events if 100 + s <= self.now]:
            self.events.pop(second)()


@pytest.fixture
def log(monkeypatch):
    """What a sender did: when it connected, and whose runs it delivered."""
    log = []

    def deliver(tracker, file, live):
        log.append(file.stem.rpartition("-")[2])
        file.unlink()

    monkeypatch.setattr(sender, "connect", lambda root: log.append("connected") or "a tracker")
    monkeypatch.setattr(sender, "deliver", deliver)
    return log


@pytest.fixture
def outbox(tmp_path):
    """An outbox with the run of a stage."""
    found = outboxes.folder(tmp_path)
    found.mkdir(parents=True)
    end_a_run(found, "first")
    return found


def end_a_run(outbox, name):
    (outbox / f"{outboxes.destination()}-1-{name}.jsonl").touch()


@pytest.mark.parametrize(
    ("linger", "after", "served"), [(5.0, 3, ["first", "second"]), (5.0, 9, ["first"]), (0.0, 3, ["first"])]
)
def test_a_sender_waits_for_the_next_stage_for_a_while(
    tmp_path, outbox, log, monkeypatch, linger, after, served
):
    monkeypatch.setattr(sender, "time", Clock({after: lambda: end_a_run(outbox, "second")}))
    sender.serve(tmp_path, outbox, linger=linger)
    assert log == ["connected", *served]


def test_stages_start_a_sender_that_waits(tmp_path, outbox, monkeypatch):
    asked = {}
    monkeypatch.setattr(sender.sys, "argv", ["sender", str(tmp_path)])
    monkeypatch.setattr(sender.signal, "signal", lambda *_: None)
    monkeypatch.setattr(sender.os, "nice", lambda _: None)
    monkeypatch.setattr(sender, "serve", lambda root, outbox, **how: asked.update(how))
    sender.main()
    assert asked["linger"] > 1
