"""How a stage that DVC ran has failed."""

import json
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fewstep.secrets import scrub

LINES_OF_A_FAILURE = 12
SHELL_SIGNAL = 128  # a shell that waits for its command adds this to the number of the signal that ended it


class StageError(RuntimeError):
    """A stage failed; the message is its own, or the end of what it and DVC printed.

    It is transient, so that a retry may succeed, if the stage crashed or was killed, or if DVC itself failed.
    """

    def __init__(self, stage: str, message: str, *, transient: bool) -> None:
        super().__init__(scrub(message))
        self.stage = stage
        self.transient = transient


def failure(
    stage: str, dvc: dict[str, Any] | None, own: dict[str, Any] | None, lines: Sequence[str]
) -> StageError:
    """Return the failure of a stage.

    Args:
        stage: Its name in dvc.yaml.
        dvc: What flows/dvc/reproduce.py wrote; None if it was killed.
        own: What the stage wrote (stages/process/records.py); None if it was killed or is not one of ours.
        lines: What both printed.
    """
    end = list(lines[-LINES_OF_A_FAILURE:])
    if dvc is None or not dvc["status"]:  # it ran no command, or could not take over what one made
        error = [dvc["error"]] if dvc and dvc["error"] not in end else []
        return StageError(stage, "\n".join([f"{stage}: DVC failed", *end, *error]), transient=True)
    crashed = own is not None and own["outcome"] == "crash"
    if own is not None and not crashed:
        return StageError(stage, f"{stage}: {own['message']}", transient=False)
    status = dvc["status"]
    number = -status if status < 0 else status - SHELL_SIGNAL
    if number > 0:
        killed = f"{stage} was killed by signal {number}"
        return StageError(stage, "\n".join([killed, *end]), transient=number != signal.SIGINT)
    ended = f"{stage} ended with exit status {status}"
    return StageError(stage, "\n".join([ended, *end]), transient=crashed)


def timeout(stage: str, seconds: float | None) -> StageError:
    """Return the failure of a stage that was stopped at its time limit; a retry has no more time."""
    return StageError(
        stage,
        f"{stage} took longer than the {seconds:g} s that FEWSTEP_STAGE_TIMEOUT allows, and was stopped. "
        "Its work so far is kept: raise the limit or run again",
        transient=False,
    )


def stopped(stage: str) -> StageError:
    """Return the failure of a stage that was stopped because its flow is."""
    return StageError(stage, f"{stage} was stopped with its flow", transient=False)


def written(file: Path) -> dict[str, Any] | None:
    """Return what a child wrote, None if it wrote nothing, or not to the end."""
    try:
        return json.loads(file.read_text())
    except (FileNotFoundError, ValueError):
        return None
