"""Fetch: a finished set from where its workers put it into a folder of this machine."""

import hashlib
from pathlib import Path

from fewstep.progress import SILENT, Progress
from fewstep.shards.index import INDEX
from fewstep.shards.read import Shards
from fewstep.shards.store import Store


def fetch_shards(store: Store, folder: Path, progress: Progress = SILENT) -> Shards:
    """Copy a finished set into `folder`, the index last; shards that are there already are kept.

    Raises:
        UserError: if a shard is missing, or is not what the index says.
    """
    shards, target = Shards(store.url), Store(folder)
    progress.start("fetch", sum(file.bytes for file in shards.files), unit="byte")
    for number, file in enumerate(shards.files):
        if not _is_there(folder / file.name, file.sha256):
            target.put(file.name, shards.content(number))
        progress.advance(file.bytes)
    target.put(INDEX, store.read(INDEX))
    return Shards(folder)


def _is_there(path: Path, sha256: str) -> bool:
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == sha256
