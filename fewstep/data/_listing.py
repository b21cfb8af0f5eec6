"""What of a folder is an image, by its ending: every other file is counted, so that nothing goes unseen."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection
from pathlib import Path

from fewstep.errors import UserError
from fewstep.files import shown
from fewstep.lazy import brought_by, lazy_imports
from fewstep.left_out import counted
from fewstep.links import refuse_linked_folder

with lazy_imports(error_callback=brought_by("images", what="reading images", library="Pillow")):
    from PIL import Image

NOT_DECODED = ("BUFR", "EPS", "GRIB", "HDF5", "MPEG", "PDF", "WMF")  # Pillow knows them, but needs more to
SPLITS = {"train", "training", "val", "valid", "validation", "dev", "test", "testing", "eval", "evaluation"}


def endings() -> set[str]:
    """Return the endings, such as ".png", of the files that Pillow reads."""
    Image.init()
    return {
        ending
        for ending, kind in Image.registered_extensions().items()
        if kind in Image.OPEN and kind not in NOT_DECODED
    }


def listed(folder: Path, name: str, *, read: Collection[str] = ()) -> tuple[list[str], list[str]]:
    """Return the images below a folder, as relative paths in order, and notes of what else is there.

    Args:
        folder: where to look; whatever has a name that starts with a dot is not part of it.
        name: what the user calls it.
        read: files in it that are no images, but are read.

    Raises:
        UserError: if there are no images, a folder in it is a link, files are links to nothing, or a name is
            not UTF-8.
    """
    files, folders = _seen(folder, name)
    readable = endings()
    images, others = [], Counter[str]()
    for file in files:
        ending = Path(file).suffix.lower()
        if ending in readable and (folder / file).is_file():
            images.append(file)
        elif file not in read:
            others[ending or Path(file).name] += 1
    count = others.total()
    passed_over = f"passed over {count} files that are no images: {counted(others)}" if count else ""
    if not images:
        what = f"{name} holds no images" if count else f"{name} is empty: it holds no images"
        raise UserError(f"{what} (png, jpg, and what else Pillow reads){passed_over and '; ' + passed_over}")
    with_images = {file.partition("/")[0] for file in images}
    empty = [path for path in folders if "/" not in path and path not in with_images]
    notes = [f"{name}: {passed_over}"] if passed_over else []
    notes += [f"{name}: no images lie in {', '.join(empty)}"] if empty else []
    return images, notes


def classes_of(images: list[str], name: str) -> tuple[tuple[str, ...], list[str]]:
    """Return the classes, which are the subfolders that hold images, in order; and notes of deeper ones.

    Raises:
        UserError: if images lie beside subfolders, or the subfolders are splits.
    """
    loose = [file for file in images if "/" not in file]
    if len(loose) == len(images):
        return (), []
    if loose:
        raise UserError(
            f"{name}/{loose[0]} lies beside subfolders that hold images; move it into its class's folder"
        )
    classes = tuple(sorted({file.partition("/")[0] for file in images}))
    if {label.lower() for label in classes} <= SPLITS:
        raise UserError(
            f"the subfolders of {name} are splits of a data set ({', '.join(classes)}), not classes. Name "
            f"one of them, such as source: {name}/{classes[0]}, or move their images together: prepare holds "
            "out a share itself"
        )
    deeper = min((file.split("/")[:2] for file in images if file.count("/") > 1), default=None)
    if not deeper:
        return classes, []
    note = f"{name}: only its own subfolders are classes; {'/'.join(deeper)} and such belong to theirs"
    return classes, [note]


def _seen(folder: Path, name: str) -> tuple[list[str], list[str]]:
    """Return all files and all folders below a folder, as relative paths in order, but for hidden ones.

    As text, for a million of pathlib's paths take a gigabyte.
    """
    files: list[str] = []
    folders: list[str] = []
    for place, below, here in os.walk(folder):
        below[:] = [part for part in below if not part.startswith(".")]
        start = "" if place == os.fspath(folder) else f"{os.path.relpath(place, folder)}/"
        folders += [start + part for part in below]
        files += [start + part for part in here if not part.startswith(".")]
    for paths in (folders, files):
        paths.sort(key=lambda path: path.replace("/", "\0"))  # as pathlib sorts: part by part
        for path in paths:
            _refuse_odd_name(f"{name}/{path}")
    for path in folders:
        refuse_linked_folder(folder / path, f"{name}/{path}")
    _refuse_dangling([file for file in files if not os.path.exists(folder / file)], name)
    return files, folders


def _refuse_odd_name(name: str) -> None:
    if shown(name) != name:
        raise UserError(f"{shown(name)} has a name that is not UTF-8; rename it")


def _refuse_dangling(dangling: list[str], name: str) -> None:
    if dangling:
        raise UserError(
            f"{len(dangling)} files in {name} are links to nothing, the first is {name}/{dangling[0]}; put "
            "the files there, or remove the links"
        )
