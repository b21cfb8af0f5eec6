"""Shards: a set of samples as a folder of WebDataset tar files and an index, `shards.json`.

A tar file ("shard") is a sequence of records; a record is the safetensors bytes of up to 256 samples,
which reads some forty times faster than a record a sample and is smaller. Shards appear whole or not
at all and the index comes last, so a folder with an index is complete. Equal samples make equal bytes.
Noise need not be stored: a field may be `drawn` again from its stream, seed and number.

`write_shards` writes a set and resumes one that was interrupted, `Shards` reads one from a folder or
any fsspec URL and refuses damage, `Batches` draws shuffled batches from one.
"""

from fewstep.shards.batches import Batches
from fewstep.shards.fields import drawn
from fewstep.shards.read import Shards
from fewstep.shards.write import write_shards

__all__ = ["Batches", "Shards", "drawn", "write_shards"]
