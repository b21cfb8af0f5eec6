"""Files that appear whole or not at all, and files of text."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fewstep.errors import UserError


@contextmanager
def written_whole(file: Path, suffix: str = ".tmp") -> Iterator[Path]:
    """Yield a temporary path; what the block writes there takes the place of `file` when it ends.

    If the block fails, or the machine does, `file` is what it was before. Where several processes may
    write the same file, each needs a `suffix` of its own.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(file.name + suffix)
    try:
        yield temporary
        _flush(temporary)
        temporary.replace(file)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _flush(file.parent)


def read_text(file: Path) -> str:
    """Return the text of a file.

    Raises:
        FileNotFoundError: if there is none.
        UserError: if it is not in UTF-8, or can't be read.
    """
    try:
        return decoded(file.read_bytes(), file)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UserError(f"{shown(file)} can't be read: {error.strerror}") from None


def decoded(content: bytes, file: Path) -> str:
    """Return the text that a file holds.

    Raises:
        UserError: if it is not in UTF-8.
    """
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line, byte = content.count(b"\n", 0, error.start) + 1, content[error.start]
        raise UserError(
            f"{shown(file)} is not in UTF-8: line {line} holds the byte 0x{byte:02x}; save it in UTF-8"
        ) from None


def shown(file: Path | str) -> str:
    """Return a path as text that can be printed, bytes of its name that are not UTF-8 as their numbers."""
    return os.fsencode(file).decode(errors="backslashreplace")


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
