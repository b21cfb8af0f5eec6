"""The child process that runs a stage: `reproduce.py STAGE OUTCOME [--force] [--pull]`.

It calls DVC in the working directory and writes how that ended to the file OUTCOME as JSON. It imports
nothing of this project, since the working directory may hold another version of it.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

from dvc.exceptions import DvcException
from dvc.repo import Repo


class Command(subprocess.Popen):
    """A process; remembers the one that is a stage's command, for which DVC sets DVC_STAGE.

    DVC reports only in prose whether it ran a command and how that ended.
    """

    stage: ClassVar["Command | None"] = None

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        if "DVC_STAGE" in (options.get("env") or ()):
            Command.stage = self


def reproduce(stage: str, *, force: bool, pull: bool) -> dict[str, Any]:
    """Return how DVC brought a stage up to date.

    Returns:
        outcome: "ran", "cached" (restored from the run-cache), "unchanged" or "failed".
        status: The exit status of the stage's command; None if none ran.
        error: What DVC says of a failure.
    """
    with Repo(_wait_for_lock=True) as repo:  # another stage may hold the lock for longer than the usual 3 s
        repo.scm_context.quiet = True  # no advice on git
        try:
            done = repo.reproduce(stage, single_item=True, force=force, pull=pull)
            outcome, error = "cached" if done else "unchanged", ""
        except DvcException as failure:
            outcome, error = "failed", str(failure.__cause__ or failure)
    if Command.stage and outcome != "failed":
        outcome = "ran"
    return {"outcome": outcome, "status": Command.stage and Command.stage.returncode, "error": error}


def main(stage: str, file: str, *options: str) -> None:
    """Reproduce a stage, note the outcome, and end the process: with status 1 if it failed."""
    subprocess.Popen = Command  # type: ignore[misc]
    found = reproduce(stage, force="--force" in options, pull="--pull" in options)
    temporary = Path(f"{file}.tmp")
    temporary.write_text(json.dumps(found))
    temporary.replace(file)
    sys.exit(1 if found["outcome"] == "failed" else 0)


if __name__ == "__main__":
    main(*sys.argv[1:])
