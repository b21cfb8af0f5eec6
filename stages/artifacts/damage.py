"""What of a result is not as it was written: missing files, and those of another size or sha256.

DVC is made to look at the damaged ones itself (`distrust`).
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from fewstep.files import distrust, sha256


def first_by_size(folder: Path, manifest: dict[str, Any]) -> str | None:
    """Say which file is missing or has another size than the manifest says; None if none is."""
    for file, problem in _by_size(folder, manifest):
        distrust(file)
        return f"{file} {problem}"
    return None


def by_digest(
    folder: Path, manifest: dict[str, Any], *, but: Callable[[Path], bool] = lambda file: False
) -> dict[Path, str]:
    """Read all files that a manifest names, and return what is wrong with which.

    Args:
        folder: Where they lie.
        manifest: What was written.
        but: Says of which files the size is enough.
    """
    found = dict(_by_size(folder, manifest))
    written = {folder / name: facts["sha256"] for name, facts in manifest["files"].items()}
    files = [file for file in written if file not in found and not but(file)]
    with ThreadPoolExecutor() as threads:
        for file, digest in zip(files, threads.map(sha256, files), strict=True):
            if digest != written[file]:
                found[file] = "is not as it was written (its sha256 is another)"
    for file in found:
        distrust(file)
    return found


def _by_size(folder: Path, manifest: dict[str, Any]) -> Iterator[tuple[Path, str]]:
    for name, facts in manifest["files"].items():
        file = folder / name
        if not file.is_file():
            yield file, "is missing"
        elif file.stat().st_size != facts["bytes"]:
            yield file, f"has {file.stat().st_size} bytes instead of {facts['bytes']}"
