"""Files that appear whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
