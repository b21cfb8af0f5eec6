"""The user's own files: whether what settings name under data/ is there, asked before any stage runs."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from fewstep.data import path_of, source_for
from fewstep.errors import UserError
from fewstep.links import refuse_linked_folders
from stages.settings.params import texts


def must_be_there(raw: Mapping[str, Any], root: Path, addresses: Iterable[str]) -> None:
    """Refuse stages whose settings name files or folders under data/ that they can't read.

    Args:
        raw: All settings.
        root: The folder that holds data/.
        addresses: The stages, such as distill@boss-4.

    Raises:
        UserError: One is not there, nor known to DVC, which would fetch it; or it is reached through a linked
            folder. The message has a line for each.
    """
    problems = [line for address in addresses for line in _wrong(raw, root, address)]
    if problems:
        raise UserError("params.yaml names what can't be read:\n" + "\n".join(f"  {p}" for p in problems))


def _wrong(raw: Mapping[str, Any], root: Path, address: str) -> Iterator[str]:
    stage, _, key = address.partition("@")
    section = raw.get(stage, {})  # dvc.yaml may have stages of the user's
    for setting, text in texts(section.get(key) if key else section, address.replace("@", ".")):
        if (path := _under_data(setting, text)) is None:
            continue
        try:
            refuse_linked_folders(root, path)
        except UserError as error:
            yield f"{setting}: {error}"
            continue
        places = [PurePosixPath(path), *PurePosixPath(path).parents]
        if not (root / path).exists() and not any((root / f"{place}.dvc").exists() for place in places):
            if setting == "prepare.source" and path != text:
                yield _no_source(setting, text, root)
            else:
                yield f"{setting} {path!r} is not there; put it there, or name another"


def _no_source(setting: str, text: str, root: Path) -> str:
    """Say that there is no such source of data; a text without "data/" may be a misspelt name of one."""
    try:
        source_for(text, root)
    except UserError as error:
        return f"{setting}: {error}"
    raise AssertionError(f"{text} is not there")


def _under_data(setting: str, text: str) -> str | None:
    """Return the path under data/ that a setting's text names, if it names one."""
    path = path_of(text) if setting.endswith(".source") else text
    return path if path and path.startswith("data/") else None
