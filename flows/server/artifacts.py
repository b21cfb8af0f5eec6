"""What Prefect's page shows: progress of a stage while it runs, a page of its result, the table of a sweep.

Nothing here fails a stage or a sweep: what cannot be shown is a line in the log. A page waits for a server
that restarts. A progress bar does not, since the next record moves it anyway.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast
from uuid import UUID

from prefect import get_run_logger
from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)

from fewstep.command_progress import clock
from fewstep.secrets import scrub
from flows.server import connection, tracker
from flows.server.page import page
from stages.artifacts import manifests


class ProgressArtifact:
    """The progress bar of a stage."""

    def __init__(self, stage: str) -> None:
        self.stage = stage
        self.bar: UUID | None = None

    def move(self, record: dict[str, Any]) -> None:
        """Show a record of the stage's progress (stages/process/records.py)."""
        percent, shown = 100 * record["done"] / max(record["total"], 1), described(record)
        with harmless(f"the progress of {self.stage}"), connection.without_retries():
            if self.bar:
                update_progress_artifact(self.bar, percent, shown)
            else:
                made = create_progress_artifact(percent, key(f"{self.stage}-progress"), shown)
                self.bar = cast("UUID", made)  # outside of an event loop


def described(record: dict[str, Any]) -> str:
    """Return such as `pretrain@base: step 640/1500, 0:39 left`."""
    stage, label = record["stage"], record["label"]
    piece = f": {label}" if label not in ("", stage, stage.partition("@")[0]) else ""
    text = f"{stage}{piece}: {record['unit']} {record['done']}/{record['total']}"
    if (left := record["seconds_left"]) is None:
        return text
    return f"{text}, {clock(left)} left"


def show(stage: str, root: Path, outputs: tuple[str, ...]) -> None:
    """Show the results of a stage, each a page with its picture, numbers and tracked run."""
    for out in outputs:
        with harmless(f"the result of {stage}"):
            if manifest := manifests.read(root / out):
                shown = page(stage, root / out, manifest, tracked_run(stage, manifest["fingerprint"]))
                connection.restart.wait()
                with connection.without_retries():
                    create_markdown_artifact(shown, key=key(stage), description=f"{stage}: what is in {out}")


def show_table(name: str, rows: list[dict[str, Any]], description: str) -> None:
    """Show a table, which has a row for each mapping of columns to cells."""
    with harmless(f"the table of the {name}"):
        connection.restart.wait()
        with connection.without_retries():
            create_table_artifact(rows, key=key(name), description=description)


def tracked_run(stage: str, fingerprint: str) -> str | None:
    """Return the address of the tracked run of a result, None if the tracker does not know it."""
    with harmless(f"the tracked run of {stage}"):
        return tracker.run_page(fingerprint)
    return None


def key(name: str) -> str:
    """Return a name as Prefect takes it for a key: lowercase letters, numbers and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


@contextmanager
def harmless(what: str) -> Iterator[None]:
    """Turn an error into a line in the log."""
    try:
        yield
    except Exception as error:
        told = scrub(f"{type(error).__name__}: {error}".splitlines()[0])
        get_run_logger().warning(f"{what} is not shown ({told})")
