"""The tables of Prefect's database, made once an installation: a server makes them in some seconds.

`python -m flows.server.tables` makes them, which is the end of an installation (Makefile).
"""

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

from fewstep.files import copy_where_none_is

MADE = Path(sys.prefix, f"prefect-{version('prefect')}.db")
FILE = "prefect.db"
"""The name that Prefect gives its database, in its home."""


def make() -> None:
    """Have Prefect make its tables in a database that no server has used, and keep that."""
    with TemporaryDirectory(dir=MADE.parent) as home:
        command = [sys.executable, "-m", "prefect", "server", "database", "upgrade", "-y"]
        own = {name: value for name, value in os.environ.items() if "DATABASE" not in name}
        subprocess.run(command, env=own | {"PREFECT_HOME": home}, stdout=subprocess.DEVNULL, check=True)
        Path(home, FILE).replace(MADE)


def give(home: Path) -> None:
    """Copy the tables into a home without a database; Prefect makes them where none were kept."""
    if MADE.exists() and not (home / FILE).exists():
        copy_where_none_is(MADE, home / FILE)


if __name__ == "__main__":
    make()
