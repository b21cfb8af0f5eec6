"""Files that appear whole and survive a loss of power, what becomes of damaged ones, and files of text."""

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile

from fewstep.errors import UserError

UMASK = os.umask(0)  # asked for while one thread runs: it must be set to be known
os.umask(UMASK)
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # the last is a limit on the size of files


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
        temporary.chmod(0o666 & ~UMASK)  # safetensors makes files that nobody else can read
        _flush(temporary)
        temporary.replace(file)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _flush(file.parent)


def must_be_writable(file: Path) -> None:
    """Refuse a file that a long work could not write in the end; nothing is left behind.

    Raises:
        UserError: if `file` is a folder, or there can be no file of that name.
    """
    if file.is_dir():
        raise UserError(f"{shown(file)} is a folder; give the name of a file")
    with _told_of(file):
        try_to_write_in(file.parent)


def try_to_write_in(folder: Path) -> None:
    """Make a file without a name in a folder, or above it where it has to be made first, and remove it.

    Raises:
        OSError: if that can't be done, and so no file can be written in `folder`.
    """
    there = next(above for above in (folder / "file").absolute().parents if above.exists())
    TemporaryFile(dir=there).close()


@contextmanager
def output_written_whole(file: Path) -> Iterator[Path]:
    """Yield a temporary path as `written_whole` does, for a file that the user named.

    Raises:
        UserError: if it can't be written.
    """
    with _told_of(file), written_whole(file) as temporary:
        yield temporary


@contextmanager
def folder_written_whole(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder, which becomes `folder` when the block ends; if that fails, nothing is left.

    It lies in a folder of its own beside `folder`, so that commands with the same name don't meet there.

    Raises:
        UserError: if `folder` exists, at the start or in the end, or can't be written.
    """
    with _told_of(folder):
        whole = folder.resolve()  # "." has no name
        if whole.exists():
            raise UserError(f"{shown(folder)} exists; give the name of a new folder, or remove it first")
        whole.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(
            prefix=f"{whole.name}.", suffix=".tmp", dir=whole.parent, ignore_cleanup_errors=True
        ) as private:
            temporary = Path(private, whole.name)
            temporary.mkdir()
            yield temporary
            flush_below(temporary)
            temporary.rename(whole)
        _flush(whole.parent)


@contextmanager
def emptied(folder: Path) -> Iterator[Path]:
    """Yield a folder that is empty, whatever a killed process left there, and remove it in the end."""
    remove(folder)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        remove(folder)


def flush_below(folder: Path, *, names_only: bool = False) -> None:
    """Put a folder and all that is below it on the disk, so that a loss of power takes nothing of it.

    Args:
        folder: which.
        names_only: the files are on the disk already, but not under these names.
    """
    for path in folder.rglob("*"):
        if path.is_dir() or not names_only:
            _flush(path)
    _flush(folder)


def copy_where_none_is(source: Path, file: Path) -> None:
    """Copy a file, whole or not at all, to where there is none.

    One that another process puts there meanwhile stays. Where the file system has no hard links, nothing is
    copied.
    """
    with TemporaryDirectory(dir=file.parent) as folder:
        copy = shutil.copy(source, folder)
        flush_below(Path(folder))
        with suppress(OSError):
            os.link(copy, file)
    _flush(file.parent)


def remove(path: Path) -> None:
    """Remove a file or a folder; there may be none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def set_aside(path: Path) -> Path:
    """Rename what can't be used to `<name>.damaged`, in the place of an earlier one, and return that name.

    Another process may have done so already.
    """
    aside = path.with_name(f"{path.name}.damaged")
    if path.exists():
        remove(aside)
    with suppress(FileNotFoundError):
        path.rename(aside)
    return aside


def distrust(file: Path) -> None:
    """Mark a damaged file as changed: writable, and from now.

    DVC takes a file for whole if it is read-only, or as old as when it was read last. Mode and time are
    those of all hard links, so DVC finds the damage in its cache, too, and does not restore it.
    """
    with suppress(OSError):  # another user's: then DVC's cache is for `fewstep recover`
        file.chmod(0o644)
        os.utime(file)


def sha256(file: Path) -> str:
    """Return the digest of a file's bytes, in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


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


@contextmanager
def _told_of(path: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if _no_place(error):
            raise _cannot_be_written(path, error) from error
        raise


def full(error: BaseException) -> str | None:
    """Return the system's words for a full disk if an error says that there is one; not all are OSErrors."""
    numbers = (n for n in FULL if getattr(error, "errno", None) == n or os.strerror(n) in str(error))
    return next(map(os.strerror, numbers), None)


def _no_place(error: BaseException) -> bool:
    return isinstance(error, OSError) or full(error) is not None


def _cannot_be_written(path: Path, error: BaseException) -> UserError:
    reason = full(error) or getattr(error, "strerror", None) or error
    return UserError(f"{shown(path)} can't be written: {reason}")


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
