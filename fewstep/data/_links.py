"""Links to folders: neither DVC nor the digests of a stage's inputs look through them."""

from pathlib import Path

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
