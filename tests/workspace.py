"""A folder to run commands in, as a user would, and what tests ask about its processes and files."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).parents[1]
FOREIGN = ("DVC_", "FEWSTEP_", "GIT_", "MLFLOW_", "PREFECT_")


class Workspace:
    """The folder, the environment of its commands, and ways to run them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
        self.environment = inherited | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "SHELL": "/bin/bash",
            "DVC_NO_ANALYTICS": "1",
            "DVC_SITE_CACHE_DIR": str(folder.parent / "dvc-site"),  # DVC's own database, else in /var
            "FEWSTEP_TRACKING": "off",
            "FEWSTEP_WORKERS": "1",
            "GIT_CONFIG_GLOBAL": os.devnull,
            **{f"GIT_{who}_NAME": "t" for who in ("AUTHOR", "COMMITTER")},
            **{f"GIT_{who}_EMAIL": "t@example.com" for who in ("AUTHOR", "COMMITTER")},
        }

    def __truediv__(self, name: str) -> Path:
        return self.folder / name

    def sh(self, command: str, *, ok: bool | None = True, seconds: float = 300, **environment: str) -> str:
        """Run a command to its end and return all it said; it must succeed if `ok`, fail if not."""
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=self.folder,
            env=self.environment | environment,
            capture_output=True,
            text=True,
            timeout=seconds,
        )
        said = done.stdout + done.stderr
        assert ok is None or (done.returncode == 0) == ok, f"{command!r} ended {done.returncode}:\n{said}"
        return said

    def begin(self, *command: str, **environment: str) -> subprocess.Popen:
        """Begin a command in a process group of its own; `communicate` returns all it said."""
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=self.environment | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def edit(self, name: str, old: str, new: str) -> None:
        """Replace a text that must be there."""
        text = (self.folder / name).read_text()
        assert old in text
        (self.folder / name).write_text(text.replace(old, new))

    def files(self, folder: str) -> dict[str, bytes]:
        """Return the bytes of all files below a folder."""
        top = self.folder / folder
        return {str(f.relative_to(top)): f.read_bytes() for f in sorted(top.rglob("*")) if f.is_file()}

    def stage_pids(self) -> list[int]:
        """Return the live processes that run a stage here."""
        return [int(e.name) for e in Path("/proc").iterdir() if e.name.isdecimal() and self._runs_stage(e)]

    def _runs_stage(self, entry: Path) -> bool:
        """Say whether a /proc entry is `python -m stages.<name>` in this folder; not its shell."""
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
            zombie = (entry / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
            named = any(word.startswith(b"stages.") and not word.startswith(b"stages._") for word in words)
            return named and not zombie and (entry / "cwd").readlink() == self.folder
        except OSError:
            return False


def wait_for(condition: Callable[[], Any], seconds: float = 120, every: float = 0.002) -> Any:
    """Wait until `condition()` holds, asked `every` so many seconds, and return what it returned."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(every)
    return found


def kill(pid: int) -> None:
    """Kill a process at once, as a user's `kill -9` would; it may have ended by itself."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
