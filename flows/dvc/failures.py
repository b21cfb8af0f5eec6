"""How a stage that DVC ran has failed, read from what both of them printed."""

import re
import signal

LINES_OF_A_FAILURE = 12
A_SHELL_SAW_SIGNAL = 128  # plus its number
EXIT_STATUS = re.compile(r"exited with (-?\d+)$")


class StageError(RuntimeError):
    """A stage ended badly; the message is its own, or the end of what it and DVC printed.

    It is transient, so that another try may pass, if the stage crashed or was killed, or DVC itself
    failed. A stage that ends with a message of its own names what the user has to mend.
    """

    def __init__(self, stage: str, message: str, *, transient: bool) -> None:
        super().__init__(message)
        self.stage = stage
        self.transient = transient


def failure(stage: str, lines: list[str]) -> StageError:
    """Return what `dvc repro` of one stage ended with, from the lines that it and the stage printed."""
    # DVC prints "> command", lets the command speak, and reports how it ended.
    start = next((at + 1 for at, line in enumerate(lines) if line.startswith("> ")), 0)
    for end, line in enumerate(lines):
        if line.startswith("ERROR: failed to reproduce") and (found := EXIT_STATUS.search(line)):
            return _command_failure(stage, int(found.group(1)), lines[start:end])
    return StageError(
        stage, f"{stage}: DVC failed\n" + "\n".join(lines[-LINES_OF_A_FAILURE:]), transient=True
    )


def timeout(stage: str, seconds: float | None) -> StageError:
    """Return the failure of a stage that was stopped when its time was over; another try has no more time."""
    return StageError(
        stage,
        f"{stage} took longer than the {seconds:g} s that FEWSTEP_STAGE_TIMEOUT allows, and was stopped; "
        "what it did is kept, so raise the limit or just go on",
        transient=False,
    )


def _command_failure(stage: str, status: int, told: list[str]) -> StageError:
    if status > A_SHELL_SAW_SIGNAL:  # some shells wait for the command instead of becoming it
        status = A_SHELL_SAW_SIGNAL - status
    crashed = status < 0 or "Traceback (most recent call last):" in told
    if told and not crashed:  # it ended with a message, after its lines of progress
        last = max((at for at, line in enumerate(told) if line.startswith(f"{stage}: ")), default=-1)
        return StageError(stage, "\n".join(told[last:]), transient=False)
    how = f"was killed by signal {-status}" if status < 0 else f"ended with exit status {status}"
    message = "\n".join([f"{stage} {how}", *told[-LINES_OF_A_FAILURE:]])
    return StageError(stage, message, transient=status != -signal.SIGINT)
