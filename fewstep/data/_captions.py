"""Captions: the table in a folder of images that says what each of them shows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fewstep.errors import UserError
from fewstep.prompts import TABLES, read_captions

METADATA = "metadata"
"""The name of the table, without its ending."""


def captions_file(folder: Path, name: str) -> Path:
    """Return the table of captions in a folder.

    Raises:
        UserError: if it has none, or several.
    """
    there = [folder / (METADATA + ending) for ending in TABLES if (folder / (METADATA + ending)).is_file()]
    if len(there) != 1:
        named = ", ".join(METADATA + ending for ending in TABLES)
        raise UserError(
            f"{name} must hold one of {named}, which says what its images show; it holds {len(there)}"
        )
    return there[0]


def captions_of(files: Sequence[str], table: Path, column: str) -> list[str]:
    """Return what a table of captions says of each file.

    Raises:
        UserError: if it says nothing of one, or can't be read.
    """
    said = read_captions(table, column)
    if silent := [file for file in files if file not in said]:
        raise UserError(
            f"{table} says nothing of {len(silent)} images, the first is {silent[0]}; add their rows"
        )
    return [said[file] for file in files]
