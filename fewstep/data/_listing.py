"""What of a folder is an image, by its ending: every other file is counted, so that nothing goes unseen."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from etils.epy import lazy_imports

from fewstep.errors import UserError
from fewstep.extras import brought_by
from fewstep.files import shown
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


def listed(folder: Path, name: str) -> tuple[list[Path], list[str]]:
    """Return the images below a folder, as relative paths in order, and notes of what else is there.

    Args:
        folder: where to look; whatever has a name that starts with a dot is not part of it.
        name: what the user calls it.

    Raises:
        UserError: if there are no images, a folder in it is a link, files are links to nothing, or a name is
            not UTF-8.
    """
    found = sorted(path.relative_to(folder) for path in folder.rglob("*"))
    seen = [path for path in found if not any(part.startswith(".") for part in path.parts)]
    for path in seen:
        _refuse_odd_name(f"{name}/{path.as_posix()}")
        refuse_linked_folder(folder / path, f"{name}/{path.as_posix()}")
    _refuse_dangling([path for path in seen if (folder / path).is_symlink()], folder, name)
    files = [path for path in seen if not (folder / path).is_dir()]
    readable = endings()
    images = [path for path in files if path.suffix.lower() in readable and (folder / path).is_file()]
    others = set(files) - set(images)
    endings_of_others = counted(Counter(path.suffix.lower() or path.name for path in others))
    passed_over = f"passed over {len(others)} files that are no images: {endings_of_others}" if others else ""
    if not images:
        what = f"{name} holds no images" if others else f"{name} is empty: it holds no images"
        raise UserError(f"{what} (png, jpg, and what else Pillow reads){passed_over and '; ' + passed_over}")
    with_images = {path.parts[0] for path in images}
    empty = [
        p.name for p in seen if len(p.parts) == 1 and (folder / p).is_dir() and p.name not in with_images
    ]
    notes = [f"{name}: {passed_over}"] if passed_over else []
    notes += [f"{name}: no images lie in {', '.join(empty)}"] if empty else []
    return images, notes


def classes_of(images: list[Path], name: str) -> tuple[tuple[str, ...], list[str]]:
    """Return the classes, which are the subfolders that hold images, in order; and notes of deeper ones.

    Raises:
        UserError: if images lie beside subfolders, or the subfolders are splits.
    """
    loose = [path for path in images if len(path.parts) == 1]
    if len(loose) == len(images):
        return (), []
    if loose:
        raise UserError(
            f"{name}/{loose[0]} lies beside subfolders that hold images; move it into its class's folder"
        )
    classes = tuple(sorted({path.parts[0] for path in images}))
    if {label.lower() for label in classes} <= SPLITS:
        raise UserError(
            f"the subfolders of {name} are splits of a data set ({', '.join(classes)}), not classes. Name "
            f"one of them, such as source: {name}/{classes[0]}, or move their images together: prepare holds "
            "out a share itself"
        )
    deeper = sorted({path.parts[:2] for path in images if len(path.parts) > 2})
    if not deeper:
        return classes, []
    note = f"{name}: only its own subfolders are classes; {'/'.join(deeper[0])} and such belong to theirs"
    return classes, [note]


def _refuse_odd_name(name: str) -> None:
    if shown(name) != name:
        raise UserError(f"{shown(name)} has a name that is not UTF-8; rename it")


def _refuse_dangling(links: list[Path], folder: Path, name: str) -> None:
    dangling = [link for link in links if not (folder / link).exists()]
    if dangling:
        raise UserError(
            f"{len(dangling)} files in {name} are links to nothing, the first is {name}/{dangling[0]}; put "
            "the files there, or remove the links"
        )
