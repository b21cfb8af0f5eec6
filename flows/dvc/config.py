"""DVC's configuration of a project."""

from pathlib import Path
from typing import Any

from dvc.config import Config


def read(root: Path) -> Any:
    """Return the configuration; `edit` changes it."""
    return Config(str(root / ".dvc"), validate=False)


def cache(root: Path) -> Path:
    """Return the folder of the cache that `root` uses."""
    return Path(read(root)["cache"].get("dir") or root / ".dvc" / "cache").resolve()
