"""Which checkout of the project a folder lies in."""

from pathlib import Path


def checkout_of(folder: Path) -> Path | None:
    """Return the checkout of fewstep that `folder` is or lies in, None if there is none."""
    for place in (folder, *folder.parents):
        if (place / "flows" / "commands.py").is_file() and (place / "dvc.yaml").is_file():
            return place.resolve()
    return None
