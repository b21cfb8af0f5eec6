"""A tiny project with the real stage machinery and fake stages, under git and DVC, in a temporary folder."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
PYTHON_BIN = Path(sys.executable).parent

MAKE = '''
"""Make: write one file per part, slowly."""
import time
from pathlib import Path
from pydantic import Field
from stages._params import Settings
from stages._runner import Job, main

VERSION = 1  # bump when the numbers this stage writes change


class Config(Settings):
    """Settings of the fake stage."""

    parts: int = Field(ge=1)
    """Files to write."""
    seconds: float = 0.0
    """Seconds each takes."""


def inputs(config, key):
    return {}


def output(key):
    return "artifacts/make"


def run(config, job: Job) -> None:
    job.progress.start("make", config.parts, unit="part")
    for part in range(config.parts):
        file = job.out / f"part-{part}.txt"
        with (job.scratch / "attempts.log").open("a") as log:
            log.write(f"{part} {'found' if file.exists() else 'made'}\\n")
        if not file.exists():
            time.sleep(config.seconds)
            (job.scratch / "partial").write_text(f"{job.seed} {part}")
            (job.scratch / "partial").rename(file)
        job.progress.advance(loss=1 / (part + 1))
        job.progress.measure(part, loss=1 / (part + 1))
    job.facts["parts"] = config.parts
    (job.scratch / "sheet.png").write_bytes(b"a picture")
    job.picture("sheet", job.scratch / "sheet.png")


if __name__ == "__main__":
    main(Path(__file__))
'''

USE = '''
"""Use: join what make made."""
from pathlib import Path
from stages._params import Settings
from stages._runner import Job, main

VERSION = 1


class Config(Settings):
    """Settings of the fake stage."""

    word: str
    """Written before each part."""
    fail: str = ""
    """How to fail."""


def inputs(config, key):
    return {"parts": "artifacts/make"}


def output(key):
    return f"artifacts/use/{key}"


def run(config, job: Job) -> None:
    if config.fail == "disk":
        raise RuntimeError("could not save") from OSError(28, "No space left on device")
    if config.fail == "user":
        from fewstep.errors import UserError
        raise UserError("use.word is too rude")
    if config.fail == "bug":
        raise RuntimeError("a bug of ours")
    parts = sorted(job.inputs["parts"].glob("part-*"))
    (job.out / "joined.txt").write_text("".join(f"{config.word} {part.read_text()}\\n" for part in parts))


if __name__ == "__main__":
    main(Path(__file__))
'''

PARAMS = """\
seed: 0
make: {parts: 3}
use:
  one: {word: hello}
  two: {word: bye}
"""

DVC_YAML = """\
stages:
  make:
    cmd: python -m stages.make
    params: [seed, make, {stages/make.py: [VERSION]}]
    deps: [.gitignore]
    outs: [artifacts/make]
  use:
    foreach: ${use}
    do:
      cmd: python -m stages.use ${key}
      deps: [artifacts/make]
      params: [seed, "use.${key}", {stages/use.py: [VERSION]}]
      outs: ["artifacts/use/${key}"]
"""


class Project:
    """The folder, and ways to run things in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("DVC_", "MLFLOW_", "FEWSTEP_"))}
        self.environment = inherited | {
            "PATH": f"{PYTHON_BIN}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(CHECKOUT),
            "DVC_NO_ANALYTICS": "1",
            "SHELL": "/bin/bash",
            "FEWSTEP_TRACKING": "off",
        }
        (folder / "stages").mkdir(parents=True)
        for file in [CHECKOUT / "stages/__init__.py", *CHECKOUT.glob("stages/_[!_]*.py")]:
            shutil.copy(file, folder / "stages")
        self.write("stages/make.py", MAKE)
        self.write("stages/use.py", USE)
        self.write("params.yaml", PARAMS)

    def at(self, folder: Path) -> "Project":
        """Return a copy of the project in another folder."""
        shutil.copytree(self.folder, folder)
        project = Project.__new__(Project)
        project.folder, project.environment = folder, self.environment
        return project

    def with_dvc(self) -> "Project":
        """Make it a git repository with DVC set up as in the real checkout."""
        self.write("dvc.yaml", DVC_YAML)
        self.write(".gitignore", "/artifacts\n/.fewstep\n__pycache__\n")
        self.sh("git init -q && git config user.email t@example.com && git config user.name t")
        self.sh("dvc init -q && dvc config cache.type hardlink,copy && dvc config core.analytics false")
        self.sh("git add -A && git commit -qm start")
        return self

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)

    def edit(self, name: str, old: str, new: str) -> None:
        text = (self.folder / name).read_text()
        assert old in text
        self.write(name, text.replace(old, new))

    def sh(self, command: str, ok: bool = True) -> str:
        """Run a command to its end and return all it said."""
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        said = done.stdout + done.stderr
        assert (done.returncode == 0) == ok, f"{command!r} ended with {done.returncode}:\n{said}"
        return said

    def begin(self, *command: str) -> subprocess.Popen:
        """Begin a command in a process group of its own; what it says is read when it has ended."""
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def files(self, folder: str) -> dict[str, bytes]:
        """Return the bytes of all files below a folder."""
        top = self.folder / folder
        return {str(f.relative_to(top)): f.read_bytes() for f in sorted(top.rglob("*")) if f.is_file()}

    def stage_pids(self) -> list[int]:
        """Return the live processes that run a stage of this project."""
        return [
            int(entry.name)
            for entry in Path("/proc").iterdir()
            if entry.name.isdecimal() and runs_stage(entry, self.folder)
        ]


def runs_stage(entry: Path, folder: Path) -> bool:
    """Say whether a /proc entry is `python -m stages.<name>` in the folder; not its shell."""
    try:
        words = (entry / "cmdline").read_bytes().split(b"\0")
        alive = (entry / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
        return alive and any(w.startswith(b"stages.") for w in words) and (entry / "cwd").readlink() == folder
    except OSError:
        return False


def wait_for(condition, seconds: float = 20) -> None:
    """Wait until `condition()` holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def kill(pid: int) -> None:
    """Kill a process at once, as a user's `kill -9` would."""
    os.kill(pid, signal.SIGKILL)
