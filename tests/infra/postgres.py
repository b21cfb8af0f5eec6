"""A real PostgreSQL, started as a user without rights."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from outages import free_port

from flows.server.programs import HOST

HOW_TO_GET_IT = "PostgreSQL is not installed: apt-get install postgresql"
NOBODY = "nobody"  # PostgreSQL refuses to run as root


def binaries() -> Path | None:
    """Return the folder of PostgreSQL's programs, the newest if there are several."""
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda file: int(file.parts[-3]))
    found = shutil.which("initdb") or (installed[-1] if installed else None)
    return Path(found).resolve().parent if found else None


@dataclass(frozen=True)
class Database:
    """A server that runs, and how its programs reach it."""

    programs: Path
    port: int
    password: str

    @property
    def environment(self) -> dict[str, str]:
        return {
            "PATH": f"{self.programs}{os.pathsep}{os.environ['PATH']}",
            "PGHOST": HOST,
            "PGPORT": str(self.port),
            "PGUSER": "fewstep",
            "PGPASSWORD": self.password,
        }

    def run(self, *command: str) -> str:
        """Run one of PostgreSQL's programs."""
        return subprocess.check_output(
            [self.programs / command[0], *command[1:]], env=os.environ | self.environment, text=True
        )


@contextmanager
def server(password: str) -> Iterator[Database]:
    """Run a server with an empty folder and the user `fewstep`, as the image does."""
    programs = binaries()
    if programs is None:
        pytest.skip(HOW_TO_GET_IT)
    folder = Path(tempfile.mkdtemp(prefix="fewstep-postgres-"))  # pytest's own folders are closed to others
    data, secret = folder / "data", folder / "password"
    secret.write_text(password)
    other = {}
    if os.geteuid() == 0:
        other = {"user": NOBODY, "group": os.stat(folder).st_gid, "extra_groups": []}
        for path in (folder, secret):
            shutil.chown(path, NOBODY)

    def run(*command: str) -> None:
        subprocess.run(command, check=True, cwd=folder, stdout=subprocess.DEVNULL, **other)

    # no fsync: what is lost with the machine is lost with the tests
    settings = f"-p {(port := free_port())} -c listen_addresses={HOST} -c fsync=off -k {folder}"
    try:
        run(
            *(str(programs / "initdb"), "--pgdata", str(data), "--username=fewstep", "--no-sync"),
            *("--auth=scram-sha-256", f"--pwfile={secret}", "--encoding=UTF8"),
        )
        control = (str(programs / "pg_ctl"), "--pgdata", str(data), "--wait")
        run(*control, "start", f"--options={settings}", f"--log={folder / 'log'}")
        try:
            yield Database(programs, port, password)
        finally:
            run(*control, "stop", "--mode=immediate")
    finally:
        shutil.rmtree(folder)
