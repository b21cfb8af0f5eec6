"""Whether an error says that a disk is full, and of which folder."""

from pathlib import Path

from fewstep.files import full
from stages.artifacts.scratch import Scratch


def full_folder(error: BaseException | None) -> Path | None:
    """Return the folder in which there is no space left, None if neither error nor its causes say so."""
    while error is not None:
        if full(error):
            folder = Path(getattr(error, "filename", None) or "").parent
            return folder if folder.is_dir() and folder != Path() else Scratch.parent()
        error = error.__cause__ or error.__context__
    return None
