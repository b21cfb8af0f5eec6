"""The sender: a process beside the stages that delivers the outbox to MLflow while they work.

A process, not a thread: importing mlflow would hold a stage up, and one import serves all stages of a
pipeline run. Each stage starts one; it ends at once if another is at work, and otherwise when the
outbox is empty or the tracker is down. What it could not deliver stays for the sender of a later
stage. Run as `python -m stages.tracking.sender ROOT`.
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
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etils.epy import lazy_imports
from filelock import FileLock, Timeout

from fewstep.secrets import scrub
from stages.tracking import outboxes

with lazy_imports():  # mlflow takes seconds
    from mlflow import entities

    from stages.tracking import mlflow_runs

if TYPE_CHECKING:
    from stages.tracking.mlflow_runs import Tracker

LOOK, EVERY = 0.2, 2.0  # seconds between looks at the outbox, and between deliveries of a live run
RETRY = 15.0  # seconds to the next try after a failure
HANGING = 120  # seconds after which a delivery that does not end is given up, and the sender with it
REFUSALS = ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "ENDPOINT_NOT_FOUND")
CHUNK = 1000  # events between two notes of how far delivery got


def main() -> None:
    """Deliver until nothing is left, or the tracker is down and no stage runs that could wait for it."""
    root = Path(sys.argv[1])
    outbox = outboxes.folder(root)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Control-C stops the stage; its last words are still sent
    os.nice(10)
    try:
        with lock(outbox).acquire(timeout=0):
            serve(root, outbox)
    except Timeout:
        pass


def lock(outbox: Path) -> FileLock:
    """Return the lock that the sender at work for this process's destination holds."""
    return FileLock(outbox / f"{outboxes.destination()}.sender")


def serve(root: Path, outbox: Path) -> None:
    """Look for outbox files and deliver what is new in them."""
    tracker: Tracker | None = None
    delivered: dict[Path, float] = {}
    while files := list(outboxes.waiting(outbox)):
        live = {file: outboxes.live(file) for file in files}  # before reading, so that last words are read
        due = [file for file in files if not live[file] or time.monotonic() > delivered.get(file, 0) + EVERY]
        signal.alarm(HANGING)
        try:
            for file in due:
                tracker = tracker or connect(root)
                deliver(tracker, file, live[file])
                delivered[file] = time.monotonic()
            outboxes.down(outbox).unlink(missing_ok=True)
        except Exception as error:
            print(scrub(traceback.format_exc()), file=sys.stderr)
            reason = scrub(f"{type(error).__name__}: {error}".splitlines()[0])[:200]
            write(outboxes.down(outbox), reason)
            if not any(live.values()):
                return
            time.sleep(RETRY)
        signal.alarm(0)
        time.sleep(LOOK)


def connect(root: Path) -> Tracker:
    """Import mlflow and open the tracker."""
    return mlflow_runs.Tracker(root, os.environ.get("MLFLOW_TRACKING_URI"), outboxes.experiment())


def deliver(tracker: Tracker, file: Path, live: bool) -> None:
    """Deliver the events of one run from where the last delivery ended; remove them when it is over."""
    notes = file.with_suffix(".sent")
    sent: dict[str, Any] = (
        json.loads(notes.read_text()) if notes.exists() else {"offset": 0, "run": None, "ended": False}
    )
    for events, end in chunks(file, sent["offset"]):
        sent["run"] = send(tracker, file.stem, sent["run"], events)
        sent |= {"offset": end, "ended": sent["ended"] or any(event["event"] == "end" for event in events)}
        write(notes, json.dumps(sent))
    if not live:
        if sent["run"] and not sent["ended"]:
            tracker.end(sent["run"], "KILLED", outboxes.now())
        shutil.rmtree(file.with_suffix(""), ignore_errors=True)
        for leftover in (file, notes, outboxes.lock_of(file)):
            leftover.unlink(missing_ok=True)


def chunks(file: Path, offset: int) -> Iterator[tuple[list[dict[str, Any]], int]]:
    """Yield the events of whole lines after `offset`, some at a time, and the offset behind them."""
    with file.open("rb") as stream:
        stream.seek(offset)
        lines = [line for line in stream if line.endswith(b"\n")]
    for start in range(0, len(lines), CHUNK):
        offset += sum(map(len, lines[start : start + CHUNK]))
        yield [json.loads(line) for line in lines[start : start + CHUNK]], offset


def send(tracker: Tracker, name: str, run: str | None, events: list[dict[str, Any]]) -> str | None:
    """Send events in order, numbers in one batch; return the id of the run they belong to."""
    numbers = [event for event in events if event["event"] == "measure"]
    for event in events:
        try:
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
                case "locked":
                    tracker.locked(event["pipeline"], event["digest"])
                case "model":
                    tracker.registry.add(event, run or tracker.origin(event["tags"]))
                case "scores":
                    tracker.update_champions(event["rows"], run)
                case "file" if run:  # there is none if the tracker refused to begin it
                    tracker.client.log_artifact(run, event["path"], event["folder"])
                case "end" if run:
                    tracker.end(run, event["status"], event["time"])
        except Exception as error:
            drop_if_refused(error, event)
    metrics = [
        entities.Metric(re.sub(r"[^\w./ -]", "_", name), value, event["time"], event["step"])
        for event in numbers
        for name, value in event["values"].items()
    ]
    try:
        if run and metrics:
            tracker.log(run, metrics)
    except Exception as error:
        drop_if_refused(error, "measurements")
    return run


def drop_if_refused(error: Exception, what: Any) -> None:
    """Go on without what the tracker will never take or what is gone; else it is down."""
    refused = getattr(error, "error_code", "") in REFUSALS
    if not (refused or isinstance(error, FileNotFoundError)):
        raise error
    print(scrub(f"refused: {what}: {error}"), file=sys.stderr)


def write(file: Path, text: str) -> None:
    """Write a small file whole or not at all."""
    partial = file.with_suffix(f".{os.getpid()}.tmp")
    partial.write_text(text)
    partial.replace(file)


if __name__ == "__main__":
    main()
