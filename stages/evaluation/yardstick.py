"""What every entry is held against: the prepared data, seen by the nets that measure."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from operator import add
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fewstep.draws import draws
from fewstep.flow import Flow
from fewstep.grids import Grid
from fewstep.metrics.classes import largest_share_difference
from fewstep.metrics.features import FeatureNet
from fewstep.metrics.frechet import Moments
from fewstep.metrics.neighbours import manifold_scores, median_nearest
from fewstep.metrics.nets import FIRST, load_nets
from fewstep.metrics.protocol import KEPT, Floor, Reference, measure_floor, score_blocks
from fewstep.metrics.saved import as_saved, outside
from fewstep.metrics.straightness import endpoint_rmse
from fewstep.model import Model
from fewstep.shards import Shards
from fewstep.solvers import integrate
from stages.evaluation import timings
from stages.evaluation.entries import Entry, Result
from stages.figures.sample_grid import samples_shown
from stages.process.device import device

FIRST_BYTES = 2**26  # of samples that are kept whole, for what is measured on the samples themselves


@dataclass(frozen=True)
class Protocol:
    """How many samples, of which noise, in which network calls."""

    blocks: int
    samples: int
    batch: int
    seed: int

    @torch.no_grad()
    def sample(self, block: int, model: Model, flow: Flow, grid: Grid) -> Iterator[Tensor]:
        """Yield a block of samples, (batch, *shape) at a time, on the CPU; all models get the same noise."""
        indices = range(block * self.samples, (block + 1) * self.samples)
        shape, shares = model.config.shape, model.config.class_shares
        for noise, labels in draws(
            "evaluate", self.seed, indices, shape=shape, shares=shares, batch=self.batch, device=device()
        ):
            yield integrate(flow, noise, grid, **labels).x.cpu()

    def first(self, model: Model, flow: Flow, grid: Grid) -> Tensor:
        """Return the first samples of block 0, (n, *shape), as many as are kept whole."""
        return first_of(self.sample(0, model, flow, grid))


@dataclass(frozen=True)
class Constants:
    """What is worked out once an evaluation, from all of the data, a shard at a time."""

    references: tuple[Reference, ...]
    """By each net."""
    floors: tuple[Floor, ...]
    shares: np.ndarray  # (classes,)  of the classes that the first net finds in the training data
    held_out_distance: float
    """The median distance of held-out data to the nearest training sample."""


def measure_constants(prepared: Path, protocol: Protocol) -> Constants:
    """Return the constants of the data that `prepare` wrote."""
    nets, seed = list(load_nets(prepared).values()), protocol.seed
    train, held_out = Shards(prepared / "train"), Shards(prepared / "held_out")
    moments: list[list[Moments]] = [[] for _ in nets]
    counts = np.zeros(nets[0].classes)
    for data in parts_of(train):
        for found, net in zip(moments, nets, strict=True):
            found.append(Moments.of(net.features(data)))
        counts += np.bincount(nets[0].classify(data), minlength=len(counts))
    kept, others = (shards.some(KEPT, seed=seed)["data"] for shards in (train, held_out))
    references = tuple(
        Reference(reduce(add, found), net.features(kept)) for found, net in zip(moments, nets, strict=True)
    )
    floors = tuple(
        measure_floor(reference, net.features(others), block=protocol.samples, seed=seed)
        for reference, net in zip(references, nets, strict=True)
    )
    few = vectors(first_of(iter([others[: protocol.samples]])), nets[0])
    distance = median_nearest(few, (vectors(part, nets[0]) for part in parts_of(train)))
    return Constants(references, floors, counts / counts.sum(), distance)


class Yardstick:
    """Nets and constants, to measure entries with."""

    def __init__(self, prepared: Path, protocol: Protocol, constants: Constants) -> None:
        self.nets = load_nets(prepared)
        self.train, self.protocol, self.constants = Shards(prepared / "train"), protocol, constants

    def measure(self, entry: Entry, model: Model, flow: Flow, truth: Tensor | None) -> Result:
        """Sample an entry's blocks and score them; `truth` is where the first samples should land."""
        nets, seed = list(self.nets.values()), self.protocol.seed
        features: list[list[np.ndarray]] = [[] for _ in nets]
        beyond, labels, first = 0.0, np.empty(0), torch.empty(0)
        for block in range(self.protocol.blocks):
            began, parts = time.perf_counter(), list(self.protocol.sample(block, model, flow, entry.grid))
            if block == 0:
                took = time.perf_counter() - began
                timings.record_timing(entry.name, 1000 * took / self.protocol.samples)
                first = first_of(iter(parts))
                labels = np.concatenate([nets[0].classify(part) for part in parts])
            for by_net, net in zip(features, nets, strict=True):
                by_net.append(np.concatenate([net.features(part) for part in parts]))
            beyond += sum(outside(part) * len(part) for part in parts)
        neighbours = manifold_scores(self.constants.references[0].features, features[0][0], seed=seed)
        more = {name: neighbours[name] for name in ("precision", "recall", "density", "coverage")} | {
            "nearest_neighbour_ratio": self._copying(first),
            "class_share_difference": largest_share_difference(labels, self.constants.shares),
            "outside": beyond / (self.protocol.blocks * self.protocol.samples) if nets[0].pixels else None,
            "endpoint_rmse": None if truth is None else endpoint_rmse(first, truth),
        }
        scores = tuple(
            score_blocks(reference, by_net, floor=floor, seed=seed)
            for reference, by_net, floor in zip(
                self.constants.references, features, self.constants.floors, strict=True
            )
        )
        return Result(scores, more, first[: samples_shown(first.shape[1:])].clone())

    def _copying(self, samples: Tensor) -> float | None:
        """Return how far samples are from the training data, over how far held-out data is.

        None if at least half of the held-out data repeats training data: there is nothing to compare with.
        """
        if not (usual := self.constants.held_out_distance):
            return None
        net = self.nets[FIRST]
        return (
            median_nearest(vectors(samples, net), (vectors(part, net) for part in parts_of(self.train)))
            / usual
        )


def first_of(parts: Iterator[Tensor]) -> Tensor:
    """Return the samples (n, *shape) that are kept whole, of those that come (m, *shape) at a time."""
    kept, room = [], FIRST_BYTES
    for part in parts:
        most = max(1, room // (part[0].numel() * 4)) if room > 0 else 0
        kept.append(part[:most])
        room -= kept[-1].numel() * 4
        if most < len(part):
            break
    return torch.cat(kept)


def parts_of(shards: Shards) -> Iterator[Tensor]:
    """Yield the data of a set, a shard at a time."""
    return (shards.read(shard)["data"] for shard in range(len(shards.files)))


def vectors(samples: Tensor, net: FeatureNet) -> np.ndarray:
    """Return samples (n, *shape) as they are measured, (n, dims)."""
    return (as_saved(samples) if net.pixels else samples).flatten(1).numpy()
