"""manifest.json: what an artifact holds and what it was made from; without clock, host or duration."""

import hashlib
import json
from pathlib import Path
from typing import Any

from fewstep.errors import UserError

NAME = "manifest.json"
FIELDS = {"stage", "key", "version", "seed", "config", "fingerprint", "inputs", "files", "facts"}


def sha256(file: Path) -> str:
    """Return the digest of a file's bytes."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def files_below(folder: Path) -> list[Path]:
    """Return the files of a folder and its subfolders, sorted; hidden ones are nobody's data."""
    names = sorted(file.relative_to(folder) for file in folder.rglob("*") if file.is_file())
    return [folder / name for name in names if not any(part.startswith(".") for part in name.parts)]


def describe(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the size and digest of each file of a folder, by its relative name."""
    return {
        file.relative_to(folder).as_posix(): {"bytes": file.stat().st_size, "sha256": sha256(file)}
        for file in files_below(folder)
        if file != folder / NAME
    }


def write(file: Path, manifest: dict[str, Any]) -> None:
    """Write a manifest whole or not at all."""
    partial = file.with_suffix(".tmp")
    partial.write_text(json.dumps(manifest, sort_keys=True, indent=1) + "\n")
    partial.replace(file)


def read(artifact: Path) -> dict[str, Any] | None:
    """Return an artifact's manifest, None if it has none.

    Raises:
        UserError: if the file is there but is no manifest.
    """
    try:
        manifest = json.loads((artifact / NAME).read_text())
    except FileNotFoundError:
        return None
    except ValueError:
        manifest = {}
    if not isinstance(manifest, dict) or not manifest.keys() >= FIELDS:
        raise UserError(f"{artifact / NAME} is damaged; remove {artifact} and run `dvc repro` again")
    return manifest


def read_if_whole(artifact: Path) -> dict[str, Any] | None:
    """Return an artifact's manifest, None if it has none or a damaged one."""
    try:
        return read(artifact)
    except UserError:
        return None


def digest(artifact: Path) -> str | None:
    """Return the sha256 of an artifact's manifest, None if it has none."""
    file = artifact / NAME
    return sha256(file) if file.exists() else None


def damaged(folder: Path, manifest: dict[str, Any]) -> str | None:
    """Say which file is missing or has another size than the manifest says; None if all is well."""
    for name, facts in manifest["files"].items():
        file = folder / name
        if not file.is_file():
            return f"{file} is missing"
        if file.stat().st_size != facts["bytes"]:
            return f"{file} has {file.stat().st_size} bytes instead of {facts['bytes']}"
    return None


def content_digest(path: Path) -> str:
    """Return a digest of a user's own file or folder: names and bytes."""
    return sha256(path) if path.is_file() else hashlib.sha256(json.dumps(describe(path)).encode()).hexdigest()
