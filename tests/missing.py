"""A library that is not installed, for modules that import it lazily."""

import importlib
import sys

import pytest


def make_missing(monkeypatch: pytest.MonkeyPatch, library: str, module: str) -> None:
    """Let `module` find no `library`, such as "sklearn.datasets", as if it had never been loaded there."""
    lazy = vars(importlib.import_module(module))[library.rpartition(".")[2]]
    monkeypatch.setitem(vars(lazy), "_module", None)
    monkeypatch.setitem(sys.modules, library, None)
