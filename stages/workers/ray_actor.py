"""What runs on a machine of a Ray cluster, where the same code must lie; light, so that it arrives fast."""

import hashlib
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from fewstep.errors import UserError
from stages.workers.sharing import Answer, answer

CHECKOUT = Path(__file__).parents[2]


class Actor:
    """What Ray runs."""

    def do(self, work: Callable[..., Any], facts: tuple[Any, ...]) -> Answer:
        """Do `work(*facts)`."""
        return answer(work, facts)


def arrive(folder: str, expected: str) -> None:
    """Go to the stage's folder, if this machine has it; else stay where Ray was started.

    Raises:
        UserError: if other code than the stage's would run here.
    """
    with suppress(FileNotFoundError):
        os.chdir(folder)
    if code() != expected:
        raise UserError(
            f"{CHECKOUT} on {socket.gethostname()} holds other code than the stage runs: bring both to one "
            "commit, and start again"
        )


@cache
def code() -> str:
    """Return a digest of the code that decides results."""
    files = sorted(file for part in ("fewstep", "stages") for file in (CHECKOUT / part).rglob("*.py"))
    texts = [(str(file.relative_to(CHECKOUT)), file.read_text()) for file in files]
    return hashlib.sha256(repr(texts).encode()).hexdigest()
