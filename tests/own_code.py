"""A checkout with code of a user's own, which models of other libraries and of one's own are made of."""

import sys
from pathlib import Path

import pytest


def checkout_with(folder: Path, monkeypatch: pytest.MonkeyPatch, module: str, code: str) -> Path:
    """Go into a folder that counts as a checkout and holds nets/<module>.py; return the folder."""
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    for name in ("nets", f"nets.{module}"):  # of the test before
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setenv("FEWSTEP_DEVICE", "cpu")
    for marker in ("dvc.yaml", "flows/commands.py"):  # a checkout
        (folder / marker).parent.mkdir(exist_ok=True)
        (folder / marker).touch()
    (folder / "nets").mkdir()
    (folder / f"nets/{module}.py").write_text(code)
    return folder
