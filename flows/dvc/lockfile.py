"""Entries of dvc.lock, one a stage: what a worker hands back, and how the driver keeps it."""

import os
import threading
from pathlib import Path
from typing import Any

from dvc.repo import Repo
from dvc.utils.serialize import dump_yaml, parse_yaml

FILE = "dvc.lock"

_merging = threading.Lock()


def text(root: Path) -> str:
    """Return dvc.lock as it is, empty where there is none yet."""
    file = root / FILE
    return file.read_text() if file.exists() else ""


def entry(root: Path, stage: str) -> dict[str, Any] | None:
    """Return what dvc.lock of `root` says of a stage; None if it knows of none."""
    return _stages(root).get(stage)


def merge(root: Path, stage: str, entry: dict[str, Any]) -> None:
    """Put the entry of a stage into dvc.lock, as DVC writes it and whole at any time."""
    # DVC's own lock is held against other processes, and does not know threads.
    with _merging, Repo(str(root), _wait_for_lock=True) as opened, opened.lock:
        stages = _stages(root) | {stage: entry}
        fresh = root / f"{FILE}.tmp"
        dump_yaml(str(fresh), {"schema": "2.0", "stages": dict(sorted(stages.items()))})
        os.replace(fresh, root / FILE)


def _stages(root: Path) -> dict[str, Any]:
    return (parse_yaml(text(root), FILE) or {}).get("stages", {})
