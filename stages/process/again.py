"""Whether a stage shall make its result again though it is there, and which run of flows asks for that.

DVC runs a stage for many reasons and does not say which, but its command line does.
"""

import os
import re

import psutil

from fewstep.errors import UserError
from stages.process import parent

VARIABLE = "FEWSTEP_AGAIN"
BY_A_PERSON = "1"
RUN = "run:"  # before the name of a run of flows, which tries a stage several times
FORCED = re.compile(r"--force|-[A-Za-z]*f[A-Za-z]*")  # also among other short options: -sf


def asked() -> bool:
    """Return whether FEWSTEP_AGAIN or `dvc repro -f` asks for the result to be made again."""
    if os.environ.get(VARIABLE):
        return True
    dvc = parent.starter() if "DVC_STAGE" in os.environ else None
    try:
        return any(FORCED.fullmatch(word) for word in dvc.cmdline()) if dvc else False
    except psutil.Error:  # it ended meanwhile
        return False


def asking_run() -> str | None:
    """Return the run of flows that asks for it, None if a person does."""
    value = os.environ.get(VARIABLE, "")
    return value.removeprefix(RUN) if value.startswith(RUN) else None


def asked_by(run: str | None) -> dict[str, str]:
    """Return the environment of a stage that a run of flows, or a person, asks to make its result again."""
    return {VARIABLE: f"{RUN}{run}" if run else BY_A_PERSON}


def must_be_right() -> None:
    """Refuse a value of FEWSTEP_AGAIN by which nothing can be meant.

    Raises:
        UserError: if it has one.
    """
    value = os.environ.get(VARIABLE, BY_A_PERSON)
    if value != BY_A_PERSON and not value.startswith(RUN):
        raise UserError(
            f"{VARIABLE} must be {BY_A_PERSON}, which makes results again, or unset; got {value!r}"
        )
