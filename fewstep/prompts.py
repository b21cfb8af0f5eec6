"""Prompts and captions: texts of a user's file, one a line, or a column of a table."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from fewstep.errors import UserError
from fewstep.files import read_text
from fewstep.registry import unknown

DELIMITERS = {".csv": ",", ".tsv": "\t"}
TABLES = (*DELIMITERS, ".jsonl")
FILE_NAME = "file_name"
"""The column that names the file of a row, as in image folders of the library datasets."""


def read_prompts(file: Path, column: str | None = None) -> tuple[str, ...]:
    """Return the prompts of a file in UTF-8, in its order.

    Args:
        file: .txt with a prompt a line; .csv or .tsv with the names of columns in the first line; or .jsonl
            with a mapping a line. Blank lines are passed over.
        column: Which of a table's; None for a table of one.

    Raises:
        UserError: if the file is missing, empty, not in UTF-8 or of another kind, there is no such column,
            or a row has no text in it.
    """
    text = _text(file, (".txt", *TABLES))
    if file.suffix == ".txt":
        if column is not None:
            raise UserError(f"{file} is no table, and has no column {column!r}; leave the column out")
        found = [line.strip() for line in text.split("\n")]
    else:
        found = [_cell(file, number, row, column) for number, row in _rows(file, text)]
    prompts = tuple(filter(None, found))
    if not prompts:
        raise UserError(f"{file} holds no prompts; write one a line, or a row")
    return prompts


def read_captions(file: Path, column: str) -> dict[str, str]:
    """Return what a table says of each file, by what the column FILE_NAME calls it.

    Raises:
        UserError: as read_prompts does, or if a file is named twice.
    """
    found: dict[str, str] = {}
    for number, row in _rows(file, _text(file, TABLES)):
        name = _cell(file, number, row, FILE_NAME)
        if name in found:
            raise UserError(f"{file}: line {number} names {name} again; leave one of its rows")
        found[name] = _cell(file, number, row, column)
    return found


def _text(file: Path, kinds: Collection[str]) -> str:
    if file.suffix not in kinds:
        raise UserError(f"{file} can't hold prompts: its name must end in {', '.join(kinds)}")
    try:
        return read_text(file).removeprefix("\ufeff")
    except FileNotFoundError:
        raise UserError(f"there is no {file} to take prompts from; put it there") from None


def _rows(file: Path, text: str) -> Iterable[tuple[int, dict[Any, Any]]]:
    """Yield the rows of a table, with the lines where they end, from 1."""
    if file.suffix in DELIMITERS:
        rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=DELIMITERS[file.suffix], strict=True)
        try:
            yield from ((rows.line_num, row) for row in rows)
        except csv.Error as error:
            raise UserError(f"{file}: line {rows.reader.line_num} is no row of a table ({error})") from None
        return
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise UserError(f"{file}: line {number} is no JSON ({error})") from None
            if not isinstance(row, dict):
                raise UserError(f"{file}: line {number} must be a mapping of columns to values")
            yield number, row


def _cell(file: Path, number: int, row: dict[Any, Any], column: str | None) -> str:
    """Return the text that a row, which ends in line `number`, has in a column."""
    there = [name for name in row if isinstance(name, str)]
    if column is None and len(there) > 1:
        raise UserError(f"{file} has the columns {', '.join(there)}; name one of them as the column")
    name = there[0] if column is None and there else column
    if name not in row:
        raise UserError(f"{file}: line {number}: {unknown('column', str(name), there)}")
    if not isinstance(row[name], str) or not (text := row[name].strip()):
        raise UserError(f"{file}: line {number} has no text in the column {name!r}; write or remove it")
    return text
