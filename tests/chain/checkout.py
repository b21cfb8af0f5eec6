"""A copy of this project with tiny settings, under git and DVC, in which the real chain runs."""

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from chain import tiny
from workspace import CHECKOUT, Workspace

STAGES_THAT_RUN = re.compile(r"^Running stage '(.+)':$", re.M)


@dataclass(frozen=True)
class Repro:
    """What a `dvc repro` said, and the stages it ran, in order."""

    said: str
    ran: list[str]


class Checkout(Workspace):
    """The copy, and what tests do with it."""

    @classmethod
    def create(cls, folder: Path) -> "Checkout":
        """Copy the project as it is now, shrink its settings and commit it."""
        listed = ["git", "-c", "safe.directory=*", "ls-files", "-co", "--exclude-standard", "-z"]
        names = subprocess.check_output(listed, cwd=CHECKOUT, text=True).split("\0")
        for name in names:
            if (CHECKOUT / name).is_file() and name != "dvc.lock":
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(CHECKOUT / name, folder / name)
        checkout = cls(folder)
        checkout.write_params(tiny.shrink(checkout.params()))
        checkout.sh("git init -q -b master && git add -A && git commit -qm tiny")
        return checkout

    def copy(self, folder: Path) -> "Checkout":
        """Copy everything, outputs, cache and scratch too, with the hard links between them."""
        subprocess.run(["cp", "-a", self.folder, folder], check=True)
        return Checkout(folder)

    def params(self) -> dict[str, Any]:
        return yaml.safe_load((self / "params.yaml").read_text())

    def write_params(self, params: dict[str, Any]) -> None:
        (self / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))

    def set(self, **sections: Any) -> None:
        """Change settings in params.yaml: mappings go into those that are there, the rest replaces."""
        self.write_params(merged(self.params(), sections))

    def repro(self, *targets: str, ok: bool | None = True, **environment: str) -> Repro:
        said = self.sh(" ".join(["dvc repro", *targets]), ok=ok, **environment)
        return Repro(said, STAGES_THAT_RUN.findall(said))

    def refused(self, command: str, **environment: str) -> str:
        """Return what a command says that must fail, without lines of progress."""
        said = self.sh(command, ok=False, **environment)
        assert "Traceback" not in said
        return "\n".join(line for line in said.splitlines() if not re.search(r"\d %\)|going on", line))

    def locked(self) -> dict[str, Any]:
        """Return what dvc.lock holds of each stage."""
        return yaml.safe_load((self / "dvc.lock").read_text())["stages"]

    def forget(self, address: str, *, scratch: bool = True) -> str:
        """Let it be as if a stage never ran, or (not `scratch`) was never published; return its output."""
        lock = yaml.safe_load((self / "dvc.lock").read_text())
        (out,) = lock["stages"].pop(address)["outs"]
        (self / "dvc.lock").write_text(yaml.safe_dump(lock))
        shutil.rmtree(self / out["path"])
        shutil.rmtree(self / ".dvc/cache/runs", ignore_errors=True)
        for folder in (self / ".fewstep/scratch").glob(f"{address}.*") if scratch else []:
            shutil.rmtree(folder)
        return out["path"]


def merged(old: Any, new: Any) -> Any:
    """Return `new`, with what only `old` has in mappings."""
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return new
    return old | {name: merged(old.get(name), value) for name, value in new.items()}
