"""What a stage shows in Prefect: how far it is while it runs, and a page of its result.

Nothing here fails a stage: what cannot be shown is a line in the log. A page waits for a server that is being
restarted; a bar does not, since the next line moves it anyway.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

from prefect import get_run_logger
from prefect.artifacts import create_markdown_artifact, create_progress_artifact, update_progress_artifact

from flows.server import connection, tracker
from flows.server.page import page
from stages.artifacts import manifests

# Such as `pretrain: step 640/1500 (43 %), loss 0.51, 21.9 step/s, 0:39 left` (stages/process/progress.py).
PROGRESS = re.compile(r"^(?P<what>.+?)[:,] (?P<at>\S+ \d+/\d+) \((?P<percent>\d+) %\)(?P<rest>.*)$")
TIME = re.compile(r"[\d:]+ (?:left|in all)$")


class Progress:
    """The bar of a stage, for the piece of its work that it is at; called with each line that it prints."""

    def __init__(self, stage: str) -> None:
        self.stage = stage
        self.bar: UUID | None = None

    def __call__(self, line: str) -> None:
        """Log a line, and move the bar if it is one of progress."""
        get_run_logger().info(line)
        if found := PROGRESS.match(line):
            percent, time = float(found["percent"]), TIME.search(found["rest"])
            said = f"{found['what']}: {found['at']}" + (f", {time[0]}" if time else "")
            with harmless(f"the progress of {self.stage}"), connection.impatient():
                if self.bar:
                    update_progress_artifact(self.bar, percent, said)
                else:
                    self.bar = create_progress_artifact(percent, key(f"{self.stage}-progress"), said)


def show(stage: str, root: Path, outputs: tuple[str, ...]) -> None:
    """Show the results of a stage, each a page with its picture, numbers and tracked run."""
    for out in outputs:
        with harmless(f"the result of {stage}"):
            if manifest := manifests.read(root / out):
                shown = page(stage, root / out, manifest, tracked_run(stage, manifest["fingerprint"]))
                connection.restart.wait()
                with connection.impatient():
                    create_markdown_artifact(shown, key=key(stage), description=f"{stage}: what is in {out}")


def tracked_run(stage: str, fingerprint: str) -> str | None:
    """Return the address of the tracked run of a result, None if the tracker cannot tell."""
    with harmless(f"the tracked run of {stage}"):
        return tracker.run_page(fingerprint)
    return None


def key(name: str) -> str:
    """Return a name as Prefect takes it for a key: lowercase letters, numbers and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


@contextmanager
def harmless(what: str) -> Iterator[None]:
    """Make of an error a line in the log."""
    try:
        yield
    except Exception as error:
        told = f"{type(error).__name__}: {error}".splitlines()[0]
        get_run_logger().warning(f"{what} is not shown ({told})")
