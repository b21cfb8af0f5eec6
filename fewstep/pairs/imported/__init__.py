"""Pairs that another tool made, checked and read part by part, so that they may be more than fit in memory.

They are an .npz file of the arrays noise and data, (n, *shape), and perhaps label and weight, (n,); or
tar files of WebDataset, a pair a record: noise.npy and data.npy, perhaps cls or label.npy, and weight.npy.
Noise is floats, and so is data: points, or images (channels, height, width) from -1 to 1, which may be
uint8 pixels too. Nothing is unpickled or extracted.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import fsspec
from fsspec import AbstractFileSystem

from fewstep.data import path_of
from fewstep.errors import UserError
from fewstep.links import refuse_linked_folders
from fewstep.pairs.imported._npz import NpzRecords
from fewstep.pairs.imported._pairs import ForeignPairs
from fewstep.pairs.imported._tars import TarRecords

__all__ = ["ForeignPairs", "open_pairs"]


def open_pairs(source: str, root: Path) -> ForeignPairs:
    """Return the pairs that `source` means; of tar files it looks through all headers, of an .npz at four.

    Args:
        source: a path under data/ to an .npz file, to a .tar file or to a folder of .tar files, which are
            taken in the order of their names; with or without the "data/". Or a URL of one, for fsspec.
            A changed file behind a URL is not noticed: copy it under data/ where that matters.
        root: the folder that holds data/.

    Raises:
        UserError: if it is not there, outside data/, reached through a linked folder, or holds no pairs.
    """
    path = path_of(source)
    if path is None and "://" not in source:
        raise UserError(f"source {source!r} is data that is built in, not pairs; name a file of pairs")
    if path is not None:
        refuse_linked_folders(root, path)
    name = path or source
    try:
        files, place = fsspec.core.url_to_fs(source if path is None else str(root / path))
        if name.endswith(".npz"):
            return ForeignPairs(name, NpzRecords(files.open(place, "rb"), name))
        tars, others = _tars(files, place, name)
        records = TarRecords(files, tars)
        records.passed_over.update(others)
        return ForeignPairs(name, records)
    except UserError:
        raise
    except FileNotFoundError as error:
        raise UserError(f"there is no {name}; put it there") from error
    except ImportError as error:
        raise UserError(f"{name} needs another package: {error}") from error
    except Exception as error:  # file systems raise errors of their own
        raise UserError(f"can't read {name}: {error}") from error


def _tars(files: AbstractFileSystem, place: str, name: str) -> tuple[dict[str, str], list[str]]:
    """Return the tar files, their places by their names, and the endings of what else lies beside them."""
    if name.endswith(".tar"):
        return {name: place}, []
    listed = {str(found).rpartition("/")[2]: str(found) for found in files.ls(place, detail=False)}
    seen = [file for file in sorted(listed) if not file.startswith(".")]
    tars = {file: listed[file] for file in seen if file.endswith(".tar")}
    if not tars:
        raise UserError(
            f"{name} holds no .tar files; pairs are an .npz file, a .tar file that is not compressed, or a "
            "folder of such"
        )
    others = [PurePosixPath(file).suffix or file for file in seen if file not in tars]
    return {f"{name.rstrip('/')}/{file}": found for file, found in tars.items()}, others
