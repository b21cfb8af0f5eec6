"""Stage discovery: a stage is a file of stages/ whose name does not start with an underscore."""

import ast
import importlib
from pathlib import Path
from types import ModuleType

from fewstep.errors import UserError

FOLDER = Path(__file__).parents[1]


def names() -> list[str]:
    """Return the names of all stages, sorted."""
    return sorted(file.stem for file in FOLDER.glob("[!_]*.py"))


def load(stage: str) -> ModuleType:
    """Return the module of a stage; it imports torch only when it runs."""
    return importlib.import_module(f"stages.{stage}")


def keyed(stage: str) -> bool:
    """Return whether it is made once for each key of its section; then its output depends on the key."""
    output = load(stage).output
    return output("a") != output("b")


def address(stage: str, key: str | None) -> str:
    """Return the name that DVC, the tracker and messages know it by, such as distill@boss-4."""
    return f"{stage}@{key}" if key else stage


def version(stage: str) -> int:
    """Return the VERSION that the stage's file holds now, even if it was edited since it was imported."""
    for node in ast.parse((FOLDER / f"{stage}.py").read_text()).body:
        if isinstance(node, ast.Assign) and [getattr(t, "id", None) for t in node.targets] == ["VERSION"]:
            return ast.literal_eval(node.value)
    raise UserError(f"stages/{stage}.py has no line `VERSION = <number>`; DVC and the manifest need one")
