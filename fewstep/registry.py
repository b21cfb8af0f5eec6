"""Solvers, methods, models, searches and data sources are files, found by their file name."""

import importlib
import importlib.util
import pkgutil
import re
from difflib import get_close_matches
from typing import Any

from fewstep.errors import UserError

RENAMED = {"distribution": "dmd", "endpoint": "coordinate_descent", "score": "sim"}
"""Methods and searches by the names that they had before version 0.2."""


def available(package: str) -> list[str]:
    """Return the names one can ask for in `package`, such as "fewstep.solvers", without importing them."""
    spec = importlib.util.find_spec(package)  # finds a package without running it, and so without torch
    assert spec is not None, f"there is no package {package}"
    path = spec.submodule_search_locations
    return sorted(m.name for m in pkgutil.iter_modules(path) if not m.name.startswith("_") and not m.ispkg)


def find(package: str, name: str) -> Any:
    """Return the class that the file `name` of `package` defines: boss_search.py holds BossSearch.

    Raises:
        UserError: if there is no such file; the message lists those that exist.
    """
    names = available(package)
    if name not in names:
        raise UserError(unknown(singular(package), name, names))
    module = importlib.import_module(f"{package}.{name}")
    return getattr(module, "".join(part.capitalize() for part in name.split("_")))


def singular(package: str) -> str:
    """Return what one file of `package` is called, such as "solver"."""
    return re.sub("(?<=ch)es$|s$", "", package.rpartition(".")[2])


def unknown(kind: str, name: str, names: list[str]) -> str:
    """Say that `name` is no `kind`, which one was perhaps meant, and which exist."""
    renamed = RENAMED.get(name)
    near = [renamed] if renamed in names else get_close_matches(str(name), names, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"unknown {kind} {name!r}{hint} (there are: {', '.join(names)})"
