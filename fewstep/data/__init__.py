"""Data sources, one file each, found by its name; `source_for` picks the one that a setting means.

A file defines a frozen dataclass of the source's options whose `load(root)` returns the Samples;
`root` is the folder that holds `data/`. Importing a file imports no torch.
"""

from __future__ import annotations

import math
from dataclasses import fields
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Protocol

from fewstep import randomness, registry
from fewstep.data._classes import without_empty_classes
from fewstep.data._conditions import kept_conditions
from fewstep.data._facts import facts_of
from fewstep.data._samples import Samples, check_samples
from fewstep.data._toy import Toy
from fewstep.errors import UserError
from fewstep.lazy import lazy_imports
from fewstep.links import refuse_linked_folders

if TYPE_CHECKING:
    from torch import Tensor

with lazy_imports():
    import torch

__all__ = [
    "Samples",
    "Source",
    "Toy",
    "check_samples",
    "facts_of",
    "kept_conditions",
    "named_sources",
    "of_points",
    "path_of",
    "source_for",
    "split",
    "without_empty_classes",
]

FILE_SOURCES = ("folder", "npz")  # these take a path
registry.add_plugins(__name__, __path__)


class Source(Protocol):
    """What a file of this package defines."""

    def load(self, root: Path) -> Samples:
        """Return the checked samples."""


def named_sources() -> list[str]:
    """Return the sources that need no file: digits, patches and the toys."""
    return [name for name in registry.available("fewstep.data") if name not in FILE_SOURCES]


def of_points(source: str) -> bool:
    """Return whether `source`, as `source_for` takes it, is known to make points before it is read."""
    return source in named_sources() and issubclass(registry.find_settings("fewstep.data", source), Toy)


def source_for(source: str, root: Path, **options: Any) -> Source:
    """Return the source that `source` means.

    Args:
        source: one of `named_sources`, such as "digits"; or a path under data/ to an .npz file or to a
            folder of images, written with or without the "data/"; or a URL of an .npz file. A changed file
            behind a URL is not noticed: copy it under data/ where that matters.
        root: the folder that holds `data/`.
        options: settings of that source.

    Returns:
        The source, not yet loaded.

    Raises:
        UserError: if there is no such source or file, it is reached through a linked folder, or it has
            no such option.
    """
    path = path_of(source)
    if source in named_sources():
        name = source
    elif path is None:
        name, options = "npz", {"path": source, **options}
        if not source.endswith(".npz"):
            raise UserError(f"source {source!r}: only .npz files are read from a URL; download it to data/")
    else:
        name, options = _kind(path, source, root), {"path": path, **options}
    kind = registry.find_settings("fewstep.data", name)
    known = [field.name for field in fields(kind) if field.name != "path"]
    for option in options.keys() - {"path", *known}:
        raise UserError(f"source {source!r}: {registry.unknown('option', option, known or ['none'])}")
    return kind(**options)


def path_of(source: str) -> str | None:
    """Return where the file or folder of `source` must lie, such as "data/cats.npz".

    Args:
        source: what `source_for` takes.

    Returns:
        A path below the folder that holds `data/`; None for what is built in, or behind a URL.

    Raises:
        UserError: if the path leads out of data/.
    """
    if source in named_sources() or "://" in source:
        return None
    path = PurePosixPath(source)
    if path.is_absolute() or ".." in path.parts:
        raise UserError(f"source {source!r} lies outside data/, where changes go unseen; copy it there")
    return str(path if path.parts[:1] == ("data",) else "data" / path)


def _kind(path: str, source: str, root: Path) -> str:
    """Return the file source that reads root/path."""
    found = root / path
    refuse_linked_folders(root, path)
    if found.is_dir():
        return "folder"
    if found.suffix == ".npz":
        if not found.is_file():
            raise UserError(f"source {source!r}: there is no file {path}; put it there")
        return "npz"
    if found.is_file():
        raise UserError(f"source {source!r}: {path} is neither an .npz file nor a folder of images")
    if "/" in source:
        raise UserError(f"source {source!r}: there is no folder {path}; put it there")
    data = root / "data"
    files = (
        sorted(p.name for p in data.iterdir() if p.is_dir() or p.suffix == ".npz") if data.is_dir() else []
    )
    hint = "a file or folder of your own goes under data/"
    raise UserError(f"{registry.unknown('source', source, named_sources() + files)}; {hint}")


def split(n: int, held_out: float, seed: int, at_least: tuple[int, int] = (1, 1)) -> tuple[Tensor, Tensor]:
    """Return the numbers, int64 and increasing, of the samples to train on and of those held out.

    Args:
        n: number of samples.
        held_out: share to hold out, between 0 and 1; rounded up to whole samples.
        seed: chooses which.
        at_least: the fewest to train on, and to hold out.

    Returns:
        Two tensors that together hold 0 to n - 1.

    Raises:
        UserError: if either part would have fewer.
    """
    taken = math.ceil(n * held_out)
    if n - taken < at_least[0] or taken < at_least[1]:
        raise UserError(
            f"held_out {held_out} of {n} samples leaves {n - taken} to train on and holds out {taken}, but "
            f"{at_least[0]} and {at_least[1]} are needed; change held_out, or give more samples"
        )
    order = torch.from_numpy(randomness.permutation("split", seed, 0, n))
    return order[taken:].sort().values, order[:taken].sort().values
