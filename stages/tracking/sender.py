"""The sender: a process beside the stages that delivers the outbox to MLflow while they work.

A process, not a thread: importing mlflow would hold a stage up, and one import serves all stages of a
pipeline run. Each stage starts one; it ends at once if another is at work, and otherwise when the outbox has
been empty for some seconds or the tracker is down. What it could not deliver stays for the sender of a later
stage. What the tracker refuses, and what is damaged, is set aside by name, and the rest is delivered. Run as
`python -m stages.tracking.sender ROOT`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from fewstep.errors import UserError
from fewstep.files import written_whole
from fewstep.lazy import lazy_imports
from fewstep.secrets import scrub
from stages.tracking import outboxes

with lazy_imports():  # mlflow takes seconds
    from mlflow import entities

    from stages.tracking import mlflow_runs

if TYPE_CHECKING:
    from stages.tracking.mlflow_runs import Tracker

LOOK, EVERY = 0.2, 2.0  # seconds between looks at the outbox, and between deliveries of a live run
LINGER = (
    5.0  # seconds to wait for the next stage of a `dvc repro`, whose own sender would import mlflow again
)
RETRY = 15.0  # seconds to the next try after a failure
HANGING = 120  # seconds after which a request that does not end is given up
REFUSALS = ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "ENDPOINT_NOT_FOUND")
DAMAGED = (FileNotFoundError, KeyError, TypeError, AttributeError)  # what an event needs is not there
NOTHING_SENT: dict[str, Any] = {"offset": 0, "run": None, "ended": False, "refused": []}
CHUNK = 1000  # events between two notes of how far delivery got


def main() -> None:
    """Deliver until nothing is left, or the tracker is down and no stage runs that could wait for it."""
    root = Path(sys.argv[1])
    outbox = outboxes.folder(root)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Control-C stops the stage; its last words are still sent
    os.nice(10)
    try:
        with lock(outbox).acquire(timeout=0):
            serve(root, outbox, linger=LINGER)
    except Timeout:
        pass


def lock(outbox: Path) -> FileLock:
    """Return the lock that the sender at work for this process's destination holds."""
    return FileLock(outbox / f"{outboxes.destination()}.sender")


def serve(root: Path, outbox: Path, linger: float = 0.0) -> None:
    """Look for outbox files and deliver what is new in them, until there were none for `linger` seconds."""
    tracker: Tracker | None = None
    delivered: dict[Path, float] = {}
    end = 0.0
    while (files := list(outboxes.waiting(outbox))) or time.monotonic() < end:
        end = time.monotonic() + linger if files else end
        live = {file: outboxes.live(file) for file in files}  # before reading, so that last words are read
        due = [file for file in files if not live[file] or time.monotonic() > delivered.get(file, 0) + EVERY]
        try:
            for file in due:
                with given_up_when_it_hangs():
                    tracker = tracker or connect(root)
                deliver(tracker, file, live[file])
                delivered[file] = time.monotonic()
            outboxes.down(outbox).unlink(missing_ok=True)
        except Exception as error:
            print(scrub(traceback.format_exc()), file=sys.stderr)
            write(outboxes.down(outbox), told(error))
            tracker = None  # its experiment may have to be made again
            if not any(live.values()):
                return
            time.sleep(RETRY)
        time.sleep(LOOK)


@contextmanager
def given_up_when_it_hangs() -> Iterator[None]:
    """Interrupt the block when it has lasted for HANGING seconds.

    Raises:
        TimeoutError: if it has.
    """
    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(HANGING)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def give_up(signum: int, frame: object) -> None:
    """Interrupt a delivery that hangs.

    Raises:
        TimeoutError: always.
    """
    raise TimeoutError(f"it has not answered for {HANGING} s")


def connect(root: Path) -> Tracker:
    """Import mlflow and open the tracker."""
    return mlflow_runs.Tracker(root, os.environ.get("MLFLOW_TRACKING_URI"), outboxes.experiment())


def deliver(tracker: Tracker, file: Path, live: bool) -> None:
    """Deliver the events of one run from where the last delivery ended.

    When the run is over, what was taken whole is removed, and anything else is set aside.
    """
    notes = file.with_suffix(".sent")
    try:
        sent = noted(notes, file.stat().st_size)
        parts, cut_off = chunks(file, sent["offset"])
    except OSError as error:  # such as a folder of that name
        sent, parts, cut_off = dict(NOTHING_SENT) | {"refused": [told(error)]}, [], b""
    for lines, end in parts:
        events = list(map(event_of, lines))
        sent["run"], refused = send(tracker, file.stem, sent["run"], events)
        ended = sent["ended"] or any(event["event"] == "end" for event in events)
        sent |= {"offset": end, "ended": ended, "refused": sent["refused"] + refused}
        write(notes, json.dumps(sent))
    if live:
        return
    if sent["run"] and not sent["ended"]:
        with given_up_when_it_hangs():
            tracker.end(sent["run"], "KILLED", outboxes.now())
    if refused := sent["refused"] + (["the last line is cut off"] if cut_off else []):
        outboxes.set_aside(file, refused)
    shutil.rmtree(file.with_suffix(""), ignore_errors=True)
    for leftover in (file, notes, outboxes.lock_of(file), file.with_suffix(outboxes.WHY)):
        leftover.unlink(missing_ok=True)


def noted(notes: Path, size: int) -> dict[str, Any]:
    """Return how far the delivery of a file of `size` bytes got; from the start if the note is damaged.

    What is sent twice is taken once.
    """
    try:
        sent = json.loads(notes.read_bytes())
    except (FileNotFoundError, ValueError):
        return dict(NOTHING_SENT)
    whole = isinstance(sent, dict) and sent.keys() == NOTHING_SENT.keys() and sent["offset"] <= size
    return sent if whole else dict(NOTHING_SENT)


def chunks(file: Path, offset: int) -> tuple[list[tuple[list[bytes], int]], bytes]:
    """Return the whole lines after `offset`, some at a time, and the offset behind them; and what follows."""
    with file.open("rb") as stream:
        stream.seek(offset)
        *lines, rest = stream.read().split(b"\n")
    found = []
    for start in range(0, len(lines), CHUNK):
        part = lines[start : start + CHUNK]
        offset += sum(len(line) + 1 for line in part)
        found.append((part, offset))
    return found, rest


def event_of(line: bytes) -> dict[str, Any]:
    """Return the event that a line holds, one of no kind if it is damaged."""
    try:
        event = json.loads(line)
    except ValueError:
        event = None
    return event if isinstance(event, dict) and "event" in event else {"event": None}


def send(
    tracker: Tracker, name: str, run: str | None, events: list[dict[str, Any]]
) -> tuple[str | None, list[str]]:
    """Send events in order, numbers in one batch; return the run's id, and why some were not taken."""
    refused, metrics = [], []
    for event in events:
        try:
            with given_up_when_it_hangs():
                match event["event"]:
                    case "begin":
                        run = tracker.begin(name, event)
                        tracker.log(run, params=event["params"])
                    case "link":
                        tracker.link(event)
                    case "params" if run:
                        tracker.log(run, params=event["params"])
                    case "samples" if run:
                        tracker.uses(run, event["samples"])
                    case "measure" if run:
                        metrics += measured(event)
                    case "locked":
                        tracker.locked(event["pipeline"], event["digest"])
                    case "model":
                        tracker.registry.add(event, run or tracker.origin(event["tags"]))
                    case "scores":
                        tracker.update_champions(event["rows"], run)
                    case "file" if run:
                        tracker.client.log_artifact(run, event["path"], event["folder"])
                    case "end" if run:
                        tracker.end(run, event["status"], event["time"])
                    case "params" | "samples" | "measure" | "file" | "end":
                        pass  # there is no run: its result was there before, or the tracker did not begin it
                    case _:
                        refused.append("a line is damaged")
        except Exception as error:
            refused.append(refusal(tracker, error, event))
    try:
        if run and metrics:
            with given_up_when_it_hangs():
                tracker.log(run, metrics)
    except Exception as error:
        refused.append(refusal(tracker, error, {"event": "measure"}))
    return run, refused


def measured(event: dict[str, Any]) -> list[entities.Metric]:
    """Return the numbers of an event."""
    return [
        entities.Metric(re.sub(r"[^\w./ -]", "_", name), value, event["time"], event["step"])
        for name, value in event["values"].items()
    ]


def refusal(tracker: Tracker, error: Exception, event: dict[str, Any]) -> str:
    """Say why the tracker will never take an event.

    Raises:
        Exception: `error`, if the tracker is down instead.
        UserError: if its experiment was deleted, so that it takes nothing.
    """
    refused = getattr(error, "error_code", "") in REFUSALS
    if not (refused or isinstance(error, DAMAGED)):
        raise error
    if refused:
        tracker.check()
    print(scrub(f"refused: {event}: {error}"), file=sys.stderr)
    return f"{event['event']}: {told(error)}"


def told(error: Exception) -> str:
    """Say in one short line what went wrong."""
    text = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
    return scrub(text.splitlines()[0])[:300]


def write(file: Path, text: str) -> None:
    """Write a small file whole or not at all."""
    with written_whole(file) as partial:
        partial.write_text(text)


if __name__ == "__main__":
    main()
