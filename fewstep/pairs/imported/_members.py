"""Members: what a tar file of WebDataset holds, and where; nothing is extracted, no name is trusted."""

from __future__ import annotations

import tarfile
from collections import Counter
from collections.abc import Iterator
from functools import partial
from itertools import groupby
from pathlib import PurePosixPath
from typing import IO, NamedTuple

from fewstep.errors import UserError

FIELDS = {
    "noise.npy": "noise",
    "data.npy": "data",
    "label.npy": "label",
    "cls": "label",
    "weight.npy": "weight",
}
PICKLES = (".pyd", ".pickle", ".pkl", ".pt", ".pth")


class MemberBytes(NamedTuple):
    """Where in its file the bytes of a member are."""

    start: int
    size: int


def records(
    file: IO[bytes], name: str, passed_over: Counter[str]
) -> Iterator[tuple[str, dict[str, MemberBytes]]]:
    """Yield the key of each record of a tar file, and where its fields are.

    Args:
        file: the tar file; whoever asks may read elsewhere in it meanwhile.
        name: what the user calls it.
        passed_over: gains the endings of all other files in it, but for those whose name starts with a dot.

    Yields:
        A key, and the places of its fields by their name: noise, data, label, weight.

    Raises:
        UserError: if the file is damaged, a field or a key comes twice, a member leads out of the archive,
            is no plain file, or a pickle.
    """
    seen = set()
    for key, members in groupby(_fields(file, name, passed_over), key=lambda member: member[0]):
        if key in seen:
            raise UserError(f"{name} holds record {key!r} twice; give each pair a key of its own")
        seen.add(key)
        places: dict[str, MemberBytes] = {}
        for _, field, place in members:
            if field in places:
                raise UserError(f"{name}: record {key!r} holds its {field} twice; keep one of them")
            places[field] = place
        yield key, places


def _fields(file: IO[bytes], name: str, passed_over: Counter[str]) -> Iterator[tuple[str, str, MemberBytes]]:
    """Yield key, field and place of the members that are fields.

    A key is what stands before the field's ending: as WebDataset has it where it holds no dot, and whole
    where it does.
    """
    for member in _members(file, name):
        file_name = PurePosixPath(member.name).name
        if not member.isreg() or file_name.startswith("."):
            continue
        ending = next((e for e in FIELDS if file_name.lower().endswith(f".{e}")), None)
        if ending is None:
            passed_over[_ending(file_name)] += 1
        else:
            key = member.name[: -len(ending) - 1]
            yield key, FIELDS[ending], MemberBytes(member.offset_data, member.size)


def _ending(file_name: str) -> str:
    """Return what a file is counted under: ".json", or "depth.npy" for an array with a name of its own."""
    *key, name, last = ["", "", *file_name.split(".")]
    return f"{name}.{last}" if last == "npy" and any(key) and not name.isdigit() else f".{last}"


def _members(file: IO[bytes], name: str) -> Iterator[tarfile.TarInfo]:
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            for member in iter(archive.next, None):
                _refuse_unsafe(member, name)
                yield member
                archive.members = []  # type: ignore[attr-defined]  # tarfile remembers every one
            file.seek(archive.offset)
        whole = file.read(tarfile.BLOCKSIZE) == bytes(tarfile.BLOCKSIZE)  # for tarfile a cut file just ends
        joined = any(block.strip(b"\0") for block in iter(partial(file.read, 2**20), b""))
    except UserError:
        raise
    except Exception as error:  # damaged bytes raise whatever they lead to
        raise UserError(f"{name} is no readable .tar file ({error}); make or copy it again") from error
    if not whole:
        raise UserError(f"{name} is cut or damaged: its end mark is missing; make or copy it again")
    if joined:
        raise UserError(f"{name} goes on after its end; are these tar files, joined? Keep them apart")


def _refuse_unsafe(member: tarfile.TarInfo, name: str) -> None:
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts:
        raise UserError(f"{name}: member {member.name!r} leads out of the archive; name it by its record")
    if not (member.isreg() or member.isdir()) or member.issparse():
        raise UserError(
            f"{name}: member {member.name!r} is a link or no plain file; put the file itself there"
        )
    if path.suffix.lower() in PICKLES:
        raise UserError(f"{name}: member {member.name!r} is a pickle, which is never read; save it as .npy")
