"""manifest.json: what an artifact holds and was made from, and its checksum; no clock, host or duration."""

import hashlib
import json
from pathlib import Path
from typing import Any

from fewstep.errors import UserError
from fewstep.files import distrust, sha256, written_whole
from fewstep.sealed import SEAL, seal, unseal

NAME = "manifest.json"
FIELDS = {"stage", "key", "version", "seed", "config", "fingerprint", "inputs", "files", "facts"}


def files_below(folder: Path) -> list[Path]:
    """Return the files of a folder and its subfolders, sorted; hidden ones are left out."""
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
    with written_whole(file) as temporary:
        temporary.write_text(json.dumps(seal(manifest), sort_keys=True, indent=1) + "\n")


def read(artifact: Path) -> dict[str, Any] | None:
    """Return an artifact's manifest, None if it has none.

    Raises:
        UserError: if the file is there but is no manifest, or not as it was written. One that an earlier
            fewstep wrote has no checksum and is not compared.
    """
    file = artifact / NAME
    try:
        manifest = json.loads(file.read_text())
        if SEAL in manifest:
            manifest = unseal(manifest)
        if not manifest.keys() >= FIELDS:
            raise ValueError("fields are missing")
    except (FileNotFoundError, NotADirectoryError):  # an output of a stage of the user's own may be a file
        return None
    except (OSError, ValueError, TypeError, AttributeError) as error:
        distrust(file)
        raise UserError(f"{file} is damaged ({error}); run: fewstep recover && dvc repro") from error
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
    return sha256(file) if file.is_file() else None


def content_digest(path: Path) -> str:
    """Return a digest of a user's own file or folder: names and bytes."""
    return sha256(path) if path.is_file() else hashlib.sha256(json.dumps(describe(path)).encode()).hexdigest()
