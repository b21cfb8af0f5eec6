"""The login of a checkout's Prefect server: made at its first start, and readable for its owner alone."""

import os
import secrets
import shlex
from contextlib import suppress
from pathlib import Path

from fewstep.errors import UserError
from stages.artifacts import places

SERVER, CLIENT = "PREFECT_SERVER_API_AUTH_STRING", "PREFECT_API_AUTH_STRING"
"""The variables that hold it, for the server and for whoever asks it."""
NAME = "fewstep"


def file_of(root: Path) -> Path:
    """Return the file that keeps the login of a checkout."""
    return root.resolve() / places.LOGIN


def login(root: Path) -> str:
    """Return `name:secret`: what PREFECT_SERVER_API_AUTH_STRING says, else that of the checkout.

    Raises:
        UserError: Others can read the file.
    """
    if given := os.environ.get(SERVER):
        return given
    file = file_of(root)
    if not file.exists():
        make(file)
    if file.stat().st_mode & 0o077:
        raise UserError(f"others can read {file}, which lets them run code here; remove it, then start again")
    return file.read_text().strip()


def client_assignment(root: Path) -> str:
    """Return what sets the client's variable in a shell; the secret itself stays off the screen."""
    where = f"${SERVER}" if os.environ.get(SERVER) else f"$(cat {shlex.quote(str(file_of(root)))})"
    return f"{CLIENT}={where}"


def make(file: Path) -> None:
    """Write a new login, whole, unless another process was faster."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f"{file.name}.{os.getpid()}.tmp")
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
        out.write(f"{NAME}:{secrets.token_urlsafe(24)}\n")
    with suppress(FileExistsError):
        os.link(partial, file)
    partial.unlink()
