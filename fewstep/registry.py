"""Methods, searches, solvers, samplers, models, couplings and data: plug-ins, found by their file name.

Each is one file of a package, such as fewstep.methods; files that start with an underscore are helpers.
Plug-ins of your own lie outside fewstep, in the folder that the environment variable FEWSTEP_PLUGINS
names: its subfolder `methods/` adds to fewstep.methods, `searches/` to fewstep.searches, and so on.
Processes that a stage starts find them too, as they inherit the variable. DVC sees neither fewstep's code
nor these files: after an edit that changes numbers, run the stages that use the plug-in with `--force`.
"""

import dataclasses
import importlib
import importlib.util
import os
import pkgutil
import re
import traceback
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from fewstep.errors import UserError, first_line
from fewstep.files import shown
from fewstep.renamed import nearest

PLUGINS = "FEWSTEP_PLUGINS"


def available(package: str) -> list[str]:
    """Return the names one can ask for in `package`, such as "fewstep.solvers", without importing them.

    Raises:
        UserError: if FEWSTEP_PLUGINS is no folder, or one of its files has the name of one of fewstep's.
    """
    spec = importlib.util.find_spec(package)  # finds a package without running it, and so without torch
    assert spec is not None, f"there is no package {package}"
    added = added_folder(package)
    own = names_in([path for path in spec.submodule_search_locations or [] if path != added])
    more = names_in([added]) if added else []
    if doubled := sorted(set(own) & set(more)):
        raise UserError(f"{added}/{doubled[0]}.py has the name of a file of {package}; rename it")
    return sorted(own + more)


def names_in(folders: list[str]) -> list[str]:
    """Return the names of the plug-ins in some folders.

    Raises:
        UserError: if the name of one is not in UTF-8, so that no setting can name it.
    """
    found = [m.name for m in pkgutil.iter_modules(folders) if not m.name.startswith("_") and not m.ispkg]
    for name in found:
        if shown(name) != name:
            raise UserError(f"{', '.join(folders)}: the name of {shown(name)}.py is not in UTF-8; rename it")
    return found


def added_folder(package: str) -> str | None:
    """Return the folder that FEWSTEP_PLUGINS adds to `package`, if there is one.

    Raises:
        UserError: if FEWSTEP_PLUGINS is no folder.
    """
    root = os.environ.get(PLUGINS)
    if not root:
        return None
    if not Path(root).is_dir():
        raise UserError(f"{PLUGINS} {root!r} is no folder; set it to the folder of your plug-ins")
    folder = Path(root).resolve() / package.rpartition(".")[2]
    return str(folder) if folder.is_dir() else None


def add_plugins(package: str, path: list[str]) -> None:
    """Let imports from `package` look into the folder of plug-ins too; `path` is its __path__.

    The packages of plug-ins call this when they are imported, so that pickles of plug-ins load anywhere.
    """
    if (folder := added_folder(package)) and folder not in path:
        path.append(folder)


def find(package: str, name: str) -> Any:
    """Return the class that the file `name` of `package` defines: boss_search.py holds BossSearch.

    Raises:
        UserError: if there is no such file; the message lists those that exist. Or if it
            is no Python, can't be imported, or does not define that class.
    """
    if not isinstance(name, str):  # as settings may have it
        raise UserError(unknown(singular(package), name, available(package)))
    return _find(package, name, os.environ.get(PLUGINS))


def find_settings(package: str, name: str) -> Any:
    """Return what `find` does, a dataclass whose fields are the options that settings may give it.

    Raises:
        UserError: see `find`; or if the class is no dataclass.
    """
    found = find(package, name)
    if not dataclasses.is_dataclass(found):
        raise UserError(
            f"{file_of(package, name)}: {class_name(name)} is no dataclass, whose fields are its options; "
            "put @dataclass(frozen=True, kw_only=True) above the class"
        )
    return found


def file_of(package: str, name: str) -> str:
    """Return the path of the file `name` of `package`, which is there."""
    spec = importlib.util.find_spec(f"{package}.{name}")
    assert spec is not None, f"{package} has {name}"
    return str(spec.origin)


@cache
def _find(package: str, name: str, plugins: str | None) -> Any:
    """Return what `find` does, once for each folder of plug-ins: trainings ask in every step."""
    names = available(package)
    if name not in names:
        raise UserError(unknown(singular(package), name, names))
    found = getattr(_imported(package, name), class_name(name), None)
    if not isinstance(found, type):
        raise UserError(
            f"{file_of(package, name)} does not define {class_name(name)}, the class that its name stands for"
        )
    return found


def _imported(package: str, name: str) -> ModuleType:
    """Return a module of `package`; a mistake of a plug-in becomes a message of one line.

    Raises:
        UserError: if it is no Python, or a plug-in that can't be imported.
    """
    try:
        return importlib.import_module(f"{package}.{name}")
    except SyntaxError as error:  # one in a byte that is not UTF-8 too
        file = error.filename or f"{added_folder(package)}/{name}.py"
        raise UserError(f"{file} is no Python: {error}") from None
    except Exception as error:
        added, file = added_folder(package), file_of(package, name)
        if added is None or not Path(file).is_relative_to(added):
            raise
        if isinstance(error, ModuleNotFoundError):
            raise UserError(
                f"{file} imports {error.name}, and there is no such module; install it, or change the import"
            ) from error
        lines = [
            frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file
        ]
        at = f" (line {lines[-1]})" if lines else ""
        told = first_line(error)
        kind = type(error).__name__
        raise UserError(
            f"{file} can't be imported{at}: {kind if told == kind else f'{kind}: {told}'}; mend the file"
        ) from error


def class_name(name: str) -> str:
    """Return the name of the class that the file `name` defines."""
    return "".join(part.capitalize() for part in name.split("_"))


def singular(package: str) -> str:
    """Return what one file of `package` is called, such as "solver"."""
    return re.sub("(?<=ch)es$|s$", "", package.rpartition(".")[2])


def unknown(kind: str, name: str, names: list[str]) -> str:
    """Say that `name` is no `kind`, which one was perhaps meant, and which exist."""
    near = nearest(str(name), names)
    hint = f"; did you mean {near!r}?" if near else ""
    return f"unknown {kind} {name!r}{hint} (there are: {', '.join(names)})"
