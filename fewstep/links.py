"""Links to folders: neither DVC nor the digests of a stage's inputs look through them."""

from pathlib import Path, PurePosixPath

from fewstep.errors import UserError


def refuse_linked_folder(path: Path, name: str) -> None:
    """Refuse a folder that is a link; a linked file is fine, its bytes are seen.

    Args:
        path: what may be a link.
        name: what the user calls it.

    Raises:
        UserError: naming it.
    """
    if path.is_symlink() and path.is_dir():
        raise UserError(
            f"{name} is a link to a folder, through which changes go unseen; copy the folder there"
        )


def refuse_linked_folders(root: Path, path: str) -> None:
    """Refuse a path under data/ if it, or a folder on the way to it, is a linked folder.

    Args:
        root: the folder that holds data/.
        path: as fewstep.data.path_of returns it.

    Raises:
        UserError: naming the first link.
    """
    for part in (*reversed(PurePosixPath(path).parents[:-2]), PurePosixPath(path)):
        refuse_linked_folder(root / part, str(part))
