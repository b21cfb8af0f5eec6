"""Write shards: each whole or not at all, by any number of processes, and those that are finished are kept.

Beside each shard lie files whose names start with a dot: what the maker counted in it, if anything, and then
a small note of what was made, with checksums, which so means that all was whole. Who resumes compares what
lies in a folder with them, and who finishes a set needs no more memory for a larger one.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypedDict

from torch import Tensor

from fewstep.errors import UserError
from fewstep.files import distrust, remove, sha256
from fewstep.progress import SILENT, Progress
from fewstep.sealed import seal, unseal
from fewstep.shards import records
from fewstep.shards.encode import encode
from fewstep.shards.fields import Field
from fewstep.shards.index import INDEX, VERSION, ShardFile, shard_name
from fewstep.shards.read import Shards
from fewstep.shards.recipe import Recipe
from fewstep.shards.store import NoRoomError, Store

NOTES_AT_ONCE, COUNTS_AT_ONCE = 256, 16  # the latter may be large

Make = Callable[[int, int], dict[str, Tensor]]
"""Returns the fields, tensors (stop - start, *shape), of samples start <= index < stop; a function of
those two numbers alone."""
Tally = Callable[[dict[str, Tensor]], str | None]
"""Returns what is to be known of a shard as text, or nothing, given its fields, tensors (n, *shape)."""


class Note(TypedDict):
    """What lies beside a finished shard."""

    origin: str
    file: dict[str, Any]
    """Of a ShardFile."""
    fields: dict[str, Field]
    counted: str | None
    """The sha256 of the file of what was counted, if there is one."""


def write_shards(
    folder: Path,
    total: int,
    per_shard: int,
    make: Make,
    *,
    facts: Mapping[str, Any],
    dtypes: Mapping[str, str] | None = None,
    affine: Mapping[str, tuple[float, float]] | None = None,
    drawn: Mapping[str, Field] | None = None,
    progress: Progress = SILENT,
) -> Shards:
    """Write a set of samples as shards in `folder`, one after the other, then its index.

    A shard that is already there is kept if it was written for the same facts and storage; everything
    else that an earlier call left in the folder is removed.

    Args:
        folder: made if missing.
        total: number of samples.
        per_shard: see Recipe.
        make: makes the samples of a shard.
        facts: see Recipe.
        dtypes: see Recipe.
        affine: see Recipe.
        drawn: see Recipe.
        progress: told of the samples.

    Returns:
        The finished set.

    Raises:
        UserError: if a count is below 1, a storage type or the field it is for doesn't exist, a sample
            isn't finite once stored, a weight is negative, or the disk is full.
    """
    recipe = Recipe(
        samples=total,
        per_shard=per_shard,
        facts=facts,
        dtypes=dtypes or {},
        affine=affine or {},
        drawn=drawn or {},
    )
    store = Store(folder)
    clear_leftovers(store, recipe, progress)
    missing = missing_shards(store, recipe)
    progress.start(
        "samples", total, done=total - sum(len(recipe.part(number)) for number in missing), unit="sample"
    )
    for number in missing:
        write_shard(store, recipe, number, make)
        progress.advance(len(recipe.part(number)))
    return finish_shards(store, recipe)


def missing_shards(store: Store, recipe: Recipe) -> list[int]:
    """Return the numbers of the shards that are still to be made."""
    sizes = store.sizes()
    return [
        number
        for number, note in notes(store, recipe)
        if note is None
        or note["file"]["bytes"] != sizes.get(shard_name(number))
        or (note["counted"] and counted_name(number) not in sizes)
    ]


def clear_leftovers(store: Store, recipe: Recipe, progress: Progress = SILENT) -> None:
    """Remove what earlier calls left and a set can't use: unfinished files, shards of a larger set, damage.

    The index goes too, since it means "complete". Of a folder, all that is kept is read and compared with its
    checksums; behind a URL damage is found when the set is fetched.

    Args:
        store: where.
        recipe: of the set.
        progress: told of damage.
    """
    names = (shard_name, note_name, counted_name)
    wanted = {name(number) for number in range(recipe.shards) for name in names}
    ours = [name for name in store.sizes() if name.lstrip(".").startswith(("shard-", INDEX))]
    store.remove(name for name in ours if name not in wanted)
    if store.folder is None:
        return
    kept = [(number, note) for number, note in notes(store, recipe) if note is not None]
    with ThreadPoolExecutor() as threads:
        whole = threads.map(lambda item: _is_whole(store, *item), kept)
        for (number, _), good in zip(kept, whole, strict=True):
            if not good:
                progress.note(f"{store.path(shard_name(number))} is damaged or gone; it is made again")
                for name in names:
                    distrust(store.folder / name(number))
                    remove(store.folder / name(number))


def write_shard(
    store: Store, recipe: Recipe, number: int, make: Make, tally: Tally = lambda fields: None
) -> None:
    """Make one shard of a set, put it in `store`, and a note of it.

    Args:
        store: where.
        recipe: of the whole set.
        number: of the shard.
        make: makes its samples.
        tally: what to note of them; see `counted`.

    Raises:
        UserError: see write_shards.
    """
    part = recipe.part(number)
    made = make(part.start, part.stop)
    stored, fields = encode(recipe, part, made)
    content = records.pack(stored, first=part.start, origin=recipe.origin(number))
    file = ShardFile(shard_name(number), len(part), len(content), hashlib.sha256(content).hexdigest())
    counts = tally(made)
    counted = None if counts is None else hashlib.sha256(counts.encode()).hexdigest()
    note = Note(origin=recipe.origin(number), file=vars(file), fields=fields, counted=counted)
    try:
        store.put(file.name, content)
        if counts is not None:
            store.put(counted_name(number), counts.encode())
        store.put(note_name(number), json.dumps(seal(note), sort_keys=True).encode())
    except NoRoomError as error:
        missing = recipe.shards - sum(note is not None for _, note in notes(store, recipe))
        raise UserError(
            f"{error} for {file.name} of {len(content)} bytes; {missing} such files are missing: free about "
            f"{missing * len(content)} bytes and run it again, the finished ones are kept"
        ) from error


def finish_shards(store: Store, recipe: Recipe) -> Shards:
    """Write the index of a set whose shards are all there, and return the set.

    Raises:
        UserError: if one is missing.
    """
    entries, fields = [], None
    for number, note in notes(store, recipe):
        if note is None:
            raise UserError(
                f"{store.path(shard_name(number))} is missing though it was made: do all workers write to "
                "this very place?"
            )
        entries.append(note["file"])
        assert fields in (None, note["fields"]), "make returned other fields than before"
        fields = note["fields"]
    index = {
        "version": VERSION,
        "samples": recipe.samples,
        "fields": {**(fields or {}), **recipe.drawn},
        "shards": entries,
        "facts": recipe.facts,
        "recipe": recipe.digest,
    }
    store.put(INDEX, (json.dumps(index, indent=1, sort_keys=True) + "\n").encode())
    return Shards(store.url)


def counted(store: Store, recipe: Recipe) -> Iterator[str]:
    """Yield what was counted in each shard of a finished set, in order."""
    for names in _chunks(recipe.shards, counted_name, COUNTS_AT_ONCE):
        found = store.read_those_there(names)
        yield from (found[name].decode() for name in names)


def notes(store: Store, recipe: Recipe) -> Iterator[tuple[int, Note | None]]:
    """Yield the number of each shard with its note; None if it has none, or was made of something else."""
    number = 0
    for names in _chunks(recipe.shards, note_name, NOTES_AT_ONCE):
        found = store.read_those_there(names)
        for name in names:
            yield number, _read_note(found.get(name), recipe.origin(number))
            number += 1


def note_name(number: int) -> str:
    """Return the name of the note of shard `number`."""
    return f".{shard_name(number)}.json"


def counted_name(number: int) -> str:
    """Return the name of the file of what was counted in shard `number`."""
    return f".{shard_name(number)}.counted"


def _chunks(shards: int, name: Callable[[int], str], at_once: int) -> Iterator[list[str]]:
    """Yield the names of all shards' files, so many at a time."""
    for start in range(0, shards, at_once):
        yield [name(number) for number in range(start, min(start + at_once, shards))]


def _is_whole(store: Store, number: int, note: Note) -> bool:
    """Return whether a shard in a folder, and what was counted in it, are as they were written."""
    assert store.folder is not None
    digests = {shard_name(number): note["file"]["sha256"], counted_name(number): note["counted"]}
    try:
        for name, digest in digests.items():
            if digest and sha256(store.folder / name) != digest:
                return False
    except OSError:
        return False
    return True


def _read_note(content: bytes | None, origin: str) -> Note | None:
    if content is None:
        return None
    try:
        note = unseal(json.loads(content))
    except ValueError:  # damaged: the shard is made again
        return None
    return Note(**note) if note["origin"] == origin else None  # type: ignore[typeddict-item]
