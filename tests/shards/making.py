"""What the tests of shards share: a small set, and the bytes of a folder."""

from pathlib import Path

import torch

from fewstep import randomness
from fewstep.shards import write_shards

FACTS = {"about": "test", "seed": 0}


def make(start, stop):
    keys = randomness.keys_of(0, start, stop)
    return {"data": randomness.noises("test", keys, (1, 2, 2)), "label": torch.arange(start, stop) % 10}


def verify(shards):
    """Compare every shard with its digest."""
    for shard in range(len(shards.files)):
        shards.content(shard)


def write(folder, total=1000, per_shard=300, make=make, **options):
    return write_shards(folder, total, per_shard, make, **{"facts": FACTS, **options})


def contents(folder):
    return {path.name: path.read_bytes() for path in Path(folder).glob("[!.]*")}
