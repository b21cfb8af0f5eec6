"""A tiny project with the real stage machinery and fake stages, under git and DVC, in a temporary folder."""

import shutil
from pathlib import Path

from workspace import CHECKOUT, Workspace

MAKE = '''
"""Make: write one file per part, slowly."""
import time
from pathlib import Path
from pydantic import Field
from stages.settings.fields import Settings
from stages.run.job import Job
from stages.run.runner import main

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
    for size in (1, 64 * 2**20 + 1):  # a large one is not sent
        with (job.scratch / f"trace-{size}").open("wb") as trace:
            trace.truncate(size)
        job.attach("profile", job.scratch / f"trace-{size}")


if __name__ == "__main__":
    main(Path(__file__))
'''

USE = '''
"""Use: join what make made."""
from pathlib import Path
from stages.settings.fields import Settings
from stages.run.job import Job
from stages.run.runner import main

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


class Project(Workspace):
    """The folder, and ways to run things in it."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.environment["PYTHONPATH"] = str(CHECKOUT)
        (folder / "stages").mkdir(parents=True)
        for subpackage in CHECKOUT.glob("stages/*/__init__.py"):
            shutil.copytree(subpackage.parent, folder / "stages" / subpackage.parent.name)
        shutil.copy(CHECKOUT / "stages/__init__.py", folder / "stages")
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
        for command in ("git init -q", "dvc init -q", "dvc config cache.type hardlink,copy"):
            self.sh(command)
        self.sh("git add -A && git commit -qm start")
        return self

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)
