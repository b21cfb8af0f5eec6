"""Whether an error says that a disk is full, and of which folder."""

import errno
import os
from pathlib import Path

from stages.artifacts.scratch import Scratch

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # the last is a limit on the size of files


def full_folder(error: BaseException | None) -> Path | None:
    """Return the folder in which there is no space left, None if neither error nor its causes say so."""
    while error is not None:
        if getattr(error, "errno", None) in FULL or any(os.strerror(number) in str(error) for number in FULL):
            folder = Path(getattr(error, "filename", None) or "").parent
            return folder if folder.is_dir() and folder != Path() else Scratch.parent()
        error = error.__cause__ or error.__context__
    return None
