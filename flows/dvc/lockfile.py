"""Entries of dvc.lock, one for each stage: a worker returns one, and the driver merges it."""

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
    """Return the entry of a stage in dvc.lock of `root`; None if it has none."""
    return _stages(root).get(stage)


def merge(root: Path, stage: str, entry: dict[str, Any]) -> None:
    """Put the entry of a stage into dvc.lock, in DVC's format; the file is complete at any time."""
    # DVC's own lock excludes other processes, but not threads.
    with _merging, Repo(str(root), _wait_for_lock=True) as opened, opened.lock:
        stages = _stages(root) | {stage: entry}
        fresh = root / f"{FILE}.tmp"
        dump_yaml(str(fresh), {"schema": "2.0", "stages": dict(sorted(stages.items()))})
        os.replace(fresh, root / FILE)


def _stages(root: Path) -> dict[str, Any]:
    return (parse_yaml(text(root), FILE) or {}).get("stages", {})
