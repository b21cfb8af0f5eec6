"""Shards: a set of samples as a folder of WebDataset tar files and an index, `shards.json`.

A tar file ("shard") is a sequence of records; a record is the safetensors bytes of up to 256 samples,
which reads some forty times faster than a record a sample and is smaller. Shards appear whole or not
at all and the index comes last, so a folder with an index is complete. Equal samples make equal bytes.
Noise need not be stored: a field may be `drawn` again from its stream, seed and number.

Of the files here, `recipe` says what a set is made of, `encode` turns what was made into stored tensors,
`records` into the bytes of a shard, and `write` puts these into a `store`. The way back is `read`, `records`,
`fields.decode` and `batches`.

`write_shards` writes a set and resumes one that was interrupted; where several processes make it, each
does `write_shard` of a `Recipe` into a `Store`, which may be a folder or any fsspec URL. `Shards` reads a
set and refuses damage, `Batches` draws shuffled batches from one, and
`Column` stands for a tensor of all of it.
"""

from fewstep.shards.batches import Batches
from fewstep.shards.column import Column
from fewstep.shards.fetch import fetch_shards
from fewstep.shards.fields import drawn
from fewstep.shards.read import Shards
from fewstep.shards.recipe import Recipe, in_one_shard
from fewstep.shards.store import Store
from fewstep.shards.write import (
    clear_leftovers,
    counted,
    finish_shards,
    missing_shards,
    write_shard,
    write_shards,
)

__all__ = [
    "Batches",
    "Column",
    "Recipe",
    "Shards",
    "Store",
    "clear_leftovers",
    "counted",
    "drawn",
    "fetch_shards",
    "finish_shards",
    "in_one_shard",
    "missing_shards",
    "write_shard",
    "write_shards",
]
