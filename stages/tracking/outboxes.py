"""The outbox: events for the tracker are written to disk first, so that no tracker delays a stage.

One run is a file of JSON lines, a folder of the same name for what is attached, and a lock that its
process holds while it lives; a sender (stages/tracking/sender.py) delivers and removes them. What the
tracker does not take whole is set aside, with the reasons.
"""

import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any, TextIO
from urllib.parse import quote

from filelock import FileLock

from stages.artifacts import places, scratch
from stages.process.locks import is_held
from stages.tracking import recording

REFUSED, WHY = "refused", ".why"


def experiment() -> str:
    """Return the name of the MLflow experiment that runs go to."""
    return recording.variable(recording.EXPERIMENT) or "fewstep"


def destination() -> str:
    """Return a digest of where runs go; the address itself may hold a password."""
    place = f"{os.environ.get('MLFLOW_TRACKING_URI')} {experiment()}"
    return hashlib.sha256(place.encode()).hexdigest()[:8]


def waiting(outbox: Path) -> list[Path]:
    """Return the files for this process's destination that are not delivered whole, oldest first."""
    return sorted(outbox.glob(f"{destination()}-*.jsonl"))


def whose(files: list[Path]) -> str:
    """Name the stages whose runs these files hold, each once, and the pipeline run."""
    names = dict.fromkeys(file.stem.split("-", 2)[2] for file in files)
    return ", ".join("the pipeline run" if name == "flow" else name for name in names)


def down(outbox: Path) -> Path:
    """Return the note that says why the tracker can't be reached, if it can't."""
    return outbox / f"{destination()}.down"


def folder(root: Path) -> Path:
    """Return the outbox of a checkout."""
    return (root / places.OUTBOX).resolve()  # a variant, which may be removed, links to it


def database(root: Path) -> str:
    """Return the address of a checkout's own tracker, which serves if MLFLOW_TRACKING_URI names none."""
    return f"sqlite:///{quote(str((root / places.TRACKER).resolve()))}"  # SQLAlchemy decodes it


class Outbox:
    """The events of one run; a disk that refuses them is no reason to stop."""

    def __init__(self, root: Path, name: str) -> None:
        self.broken: OSError | None = None
        self.stream: TextIO | None = None
        self.file = folder(root) / f"{destination()}-{time.time_ns()}-{name}.jsonl"
        self.attached = self.file.with_suffix("")
        self.lock = FileLock(lock_of(self.file))
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            self.lock.acquire()
            self.stream = self.file.open("a", buffering=1)
        except OSError as error:
            self.broken = error

    def add(self, event: str, **facts: Any) -> None:
        """Append an event; `time` is when it happened, in ms since 1970, as MLflow counts."""
        if self.broken:
            return
        assert self.stream is not None
        try:
            self.stream.write(json.dumps({"event": event, "time": now(), **facts}) + "\n")
        except OSError as error:
            self.broken = error

    def attach(self, folder: str, name: str, file: Path) -> None:
        """Add a file as it is now; it shall appear as folder/name."""
        self.add("file", path=self.keep(folder, name, file), folder=folder)

    def keep(self, folder: str, name: str, file: Path) -> str:
        """Keep a file as it is now until all is delivered, and return where, for an event to tell."""
        target = self.attached / folder / name
        if self.broken:
            return str(target)
        try:
            target.unlink(missing_ok=True)
            scratch.link(file, target)
        except OSError as error:
            self.broken = error
        return str(target)

    def close(self) -> None:
        """Close the file: nothing more will come."""
        try:
            if self.stream:
                self.stream.close()
        except OSError as error:  # it held what the disk had refused, and tried again
            self.broken = error
        finally:
            self.lock.release()


def set_aside(file: Path, reasons: list[str]) -> None:
    """Keep an outbox file, with what is attached, out of the way of the others; `reasons` say why."""
    place = file.parent / REFUSED
    place.mkdir(exist_ok=True)
    (place / file.name).with_suffix(WHY).write_text("\n".join(reasons) + "\n")
    for part in (file.with_suffix(""), file):
        if part.exists():
            part.replace(place / part.name)


def refused(outbox: Path) -> list[Path]:
    """Return the notes beside the files for this process's destination that were set aside, oldest first."""
    return sorted((outbox / REFUSED).glob(f"{destination()}-*{WHY}"))


def lock_of(file: Path) -> Path:
    """Return the lock that the process which fills an outbox file holds."""
    return file.with_suffix(".lock")


def live(file: Path) -> bool:
    """Return whether the process that fills an outbox file still runs."""
    return is_held(lock_of(file))


def now() -> int:
    """Return the time in ms since 1970."""
    return time.time_ns() // 1_000_000
