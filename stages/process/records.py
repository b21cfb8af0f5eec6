"""Records for the program that started a stage, as JSON: how far the stage is, and how it ended.

Nothing is written unless that program names the files. FEWSTEP_PROGRESS_FILE gains a line for each record;
FEWSTEP_OUTCOME_FILE holds the outcome of the stage that ended last. A stage does not fail if a file cannot be
written.
"""

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from fewstep.files import written_whole

Outcome = Literal["made", "published before", "mistake", "crash", "disk full", "interrupted"]
"""`published before`: an earlier run had made the result. `mistake`: the message says what to change."""


def add_progress(record: dict[str, Any]) -> None:
    """Append one record to the file of progress.

    Args:
        record: `stage` (its address), `label` of the piece of work, `unit`, `done`, `total`, `seconds_left`
            (None if unknown) and `values` (numbers to show, by name).
    """
    if name := os.environ.get("FEWSTEP_PROGRESS_FILE"):
        with suppress(OSError), Path(name).open("a") as file:
            file.write(json.dumps(record) + "\n")


def write_outcome(stage: str, outcome: Outcome, message: str = "") -> None:
    """Write how a stage ended, whole or not at all."""
    if name := os.environ.get("FEWSTEP_OUTCOME_FILE"):
        with suppress(OSError), written_whole(Path(name), suffix=f".{os.getpid()}.tmp") as partial:
            partial.write_text(json.dumps({"stage": stage, "outcome": outcome, "message": message}) + "\n")


def remove_outcome() -> None:
    """Remove the outcome of an earlier run, since a stage that is killed writes none."""
    if name := os.environ.get("FEWSTEP_OUTCOME_FILE"):
        with suppress(OSError):
            Path(name).unlink(missing_ok=True)
