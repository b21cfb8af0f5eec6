"""A folder to run commands in, as a user would, and what tests ask about its processes and files."""

import os
import re
import subprocess
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import preloaded
from processes import everyone, wait_for

CHECKOUT = Path(__file__).parents[1]
SEND = (
    "python -c 'from pathlib import Path; from stages.tracking import outboxes, sender; "
    "sender.serve(Path.cwd(), outboxes.folder(Path.cwd()))'"
)


class Workspace:
    """The folder, the environment of its commands, and ways to run them."""

    libraries = "dvc"
    """With which of preloaded.MORE its commands begin."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = os.environ | {
            "DVC_SITE_CACHE_DIR": str(folder.parent / "dvc-site"),  # DVC's own database, else in /var
            "FEWSTEP_TRACKING": "off",
            "FEWSTEP_WORKERS": "1",
        }

    def __truediv__(self, name: str) -> Path:
        return self.folder / name

    def sh(self, command: str, *, ok: bool | None = True, seconds: float = 1200, **environment: str) -> str:
        """Run a command to its end and return all it said; it must succeed if `ok`, fail if not."""
        status, said = self.run(command, seconds=seconds, **environment)
        assert ok is None or (status == 0) == ok, f"{command!r} ended {status}:\n{said}"
        return said

    def run(self, command: str, *, seconds: float = 1200, **environment: str) -> tuple[int, str]:
        """Run a command to its end; return its exit status, and all it said."""
        environment = self.environment | environment
        if ended := preloaded.run(command, self.folder, environment, seconds, self.libraries):
            return ended
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=seconds,
        )
        return done.returncode, done.stdout + done.stderr

    def begin(self, *command: str, said: Path | None = None, **environment: str) -> subprocess.Popen:
        """Begin a command in a process group of its own; `communicate`, or a file, tells all it said."""
        with said.open("w") if said else nullcontext(subprocess.PIPE) as out:
            return subprocess.Popen(
                command,
                cwd=self.folder,
                env=self.environment | environment,
                stdout=out,
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
        return self.running(lambda word: re.fullmatch(rb"stages\.\w+", word) is not None)

    def wait_for_senders(self, done: Callable[[], Any] | None = None) -> None:
        """Wait until all is sent, or `done()` holds.

        A sender has low priority and gives up after a while, which may be too short on a busy machine;
        then another goes on, as that of a later stage would, but with our priority.
        """
        outbox = self / ".fewstep/outbox"
        assert (outbox / "sender.log").exists(), "no stage started a sender"
        done = done or (lambda: not list(outbox.glob("*.jsonl")))
        wait_for(lambda: done() or not self.running(lambda word: word == b"stages.tracking.sender"))
        if not done():
            self.sh(SEND)
        assert done()

    def running(self, named: Callable[[bytes], bool]) -> list[int]:
        """Return the live processes here that have such a word in their command, as `-m` of python has."""
        return [process.pid for process in everyone() if self._runs(Path(f"/proc/{process.pid}"), named)]

    def _runs(self, entry: Path, named: Callable[[bytes], bool]) -> bool:
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
            return any(map(named, words)) and (entry / "cwd").readlink() == self.folder
        except OSError:
            return False
