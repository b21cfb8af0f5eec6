"""Fetch: a finished set from where its workers put it into a folder of this machine."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fewstep import files
from fewstep.progress import SILENT, Progress
from fewstep.shards.damage import DamagedError
from fewstep.shards.index import INDEX
from fewstep.shards.read import Shards
from fewstep.shards.store import Store
from fewstep.shards.write import note_name

AT_ONCE = 8  # shards in memory


def fetch_shards(store: Store, folder: Path, progress: Progress = SILENT) -> Shards:
    """Copy a finished set into `folder`, the index last; shards that are there already are kept.

    Raises:
        UserError: if a shard is missing, or is not what the index says; who goes on making the set makes
            that one again.
    """
    shards, target = Shards(store.url), Store(folder)

    def fetch(number: int) -> int:
        file = shards.files[number]
        if not _is_there(folder / file.name, file.sha256):
            try:
                content = shards.content(number)
            except DamagedError:
                store.remove([note_name(number)])
                raise
            target.put(file.name, content)
        return file.bytes

    progress.start("fetch", sum(file.bytes for file in shards.files), unit="byte")
    with ThreadPoolExecutor(AT_ONCE) as pool:  # a single connection to an object store is slow
        for fetched in pool.map(fetch, range(len(shards.files))):
            progress.advance(fetched)
    target.put(INDEX, store.read(INDEX))
    return Shards(folder)


def _is_there(path: Path, sha256: str) -> bool:
    return path.is_file() and files.sha256(path) == sha256
