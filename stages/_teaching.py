"""What stages share of the shards that a model makes of noise: writing two splits, and reading knots."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fewstep.checkpoint import model_digest
from fewstep.couplings.teacher import select_knots
from fewstep.grids import Grid
from fewstep.methods._method import Batch
from fewstep.shards import Shards, write_shards
from stages._runner import Job


def write_splits(
    job: Job,
    make: Callable[[int, int], dict[str, Tensor]],
    *,
    train: int,
    held_out: int,
    per_shard: int,
    facts: dict[str, Any],
    dtypes: dict[str, str],
) -> Shards:
    """Write the missing shards of both splits, which number their samples through; return the second."""
    facts = {"model": model_digest(job.inputs["model"]), "seed": job.seed, **facts}
    for name, first, count in (("train", 0, train), ("held_out", train, held_out)):
        shards = write_shards(
            job.out / name,
            count,
            per_shard,
            lambda start, stop, first=first: make(first + start, first + stop),
            facts=facts | {"first": first},
            dtypes=dtypes,
            progress=job.progress,
        )
    job.facts.update(facts, train=train, held_out=held_out)
    return shards


def at_knots(stored: list[float], grid: Grid, batch: Batch) -> Batch:
    """Return of a batch of trajectories, with states at the times `stored`, those at the knots of `grid`."""
    return batch | {"states": select_knots(batch["states"], stored, grid)}


def with_times(stored: list[float], batch: Batch) -> Batch:
    """Return a batch of trajectories with all its states, and their times (n, stored)."""
    states = batch["states"]
    times = torch.tensor(stored, dtype=states.dtype, device=states.device)
    return batch | {"times": times.expand(len(states), -1)}
