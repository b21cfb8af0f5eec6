"""DVC commands for a stage, each in a child process: run it, bring its inputs, send its output."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from fewstep.secrets import scrub
from flows.dvc import damage, repo
from flows.dvc import reproduce as child
from flows.dvc.failures import StageError, failure, stopped, timeout, written
from flows.system import processes, records
from stages.process import again
from stages.tracking import recording

Outcome = Literal["ran", "cached", "unchanged"]


def reproduce(
    stage: str,
    root: Path,
    log: Callable[[str], None],
    *,
    progress: Callable[[dict[str, Any]], None] = lambda record: None,
    force: bool = False,
    seconds: float | None = None,
) -> Outcome:
    """Run one stage; return whether it ran, was restored, or had nothing to do.

    Args:
        stage: Its name in dvc.yaml, key included.
        root: The folder of dvc.yaml.
        log: Called with each line that it and DVC print.
        progress: Called with each record of its progress (stages/process/records.py).
        force: Run it even if there is its result.
        seconds: How long it may take; None for no limit.

    Returns:
        "ran", "cached" (restored from the run-cache) or "unchanged".

    Raises:
        StageError: The stage or DVC failed, or the time limit was reached.
    """
    with TemporaryDirectory(prefix="fewstep-") as place:
        told, own, steps = (Path(place) / name for name in ("dvc.json", "stage.json", "progress.jsonl"))
        command = ["-P", str(child.__file__), stage, str(told)]  # -P: its neighbours are no top-level modules
        command += ["--pull"] if repo.shares_by(root) == "remote" else []
        command += ["--force"] if force else []
        environment = {"FEWSTEP_OUTCOME_FILE": str(own), "FEWSTEP_PROGRESS_FILE": str(steps)}
        # Its retries ask in the name of the same run, so what is finished is not made twice.
        environment |= again.asked_by(recording.variable(recording.PIPELINE)) if force else {}
        with records.followed(steps, progress):
            status, lines = _run(stage, root, command, log, seconds=seconds, environment=environment)
        found = written(told)
        if status or found is None:
            error = failure(stage, found, written(own), lines)
            if error.transient and (damaged := damage.explain(root)):
                raise StageError(stage, f"{stage}: {damaged}", transient=False)
            raise error
        return found["outcome"]


def run(stage: str, root: Path, arguments: list[str], log: Callable[[str], None]) -> None:
    """Run a command of DVC that serves a stage.

    Args:
        stage: Its name in dvc.yaml, key included.
        root: The folder of dvc.yaml.
        arguments: The command's.
        log: Called with each line that it prints.

    Raises:
        StageError: The command failed.
    """
    status, lines = _run(stage, root, ["-m", "dvc", "--wait-for-lock", *arguments], log)
    if status:
        raise failure(stage, None, None, lines)


def bringing(root: Path, *targets: str) -> list[str]:
    """Return the arguments of the DVC command that brings outputs to `root` from where they are shared."""
    return ["pull" if repo.shares_by(root) == "remote" else "checkout", *targets]


def _run(
    stage: str,
    root: Path,
    arguments: list[str],
    log: Callable[[str], None],
    *,
    seconds: float | None = None,
    environment: dict[str, str] | None = None,
) -> tuple[int, list[str]]:
    """Run Python with these arguments in `root`; return its exit status and the lines that it printed.

    Raises:
        StageError: The flow stops, or the time limit was reached.
    """
    # `cmd: python ...` takes python from PATH, and it must be the one that runs this.
    beside = os.pathsep.join((os.path.dirname(sys.executable), os.environ.get("PATH", "")))
    surroundings = recording.environment() | {"PATH": beside, "PYTHONUNBUFFERED": "1"} | (environment or {})
    lines: list[str] = []

    def hear(line: str) -> None:
        if line:
            lines.append(scrub(line))
            log(lines[-1])

    try:
        status = processes.run(
            [sys.executable, *arguments], hear, cwd=root, env=surroundings, seconds=seconds
        )
    except processes.TimeIsOverError:
        raise timeout(stage, seconds) from None
    except processes.StoppedError:
        raise stopped(stage) from None
    return status, lines
