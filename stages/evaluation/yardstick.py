"""What every entry is compared with: the prepared data, seen by the nets that measure."""

import math
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from operator import add
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fewstep import codec, randomness, refining, samplers
from fewstep.codec import Codec
from fewstep.draws import draws_of
from fewstep.flow import Flow
from fewstep.grids import Grid
from fewstep.metrics.classes import largest_share_difference
from fewstep.metrics.features import LOOKED_AT, FeatureNet
from fewstep.metrics.frechet import Moments
from fewstep.metrics.neighbours import manifold_scores, median_nearest
from fewstep.metrics.nets import FIRST, load_nets
from fewstep.metrics.protocol import KEPT, Floor, Reference, measure_floor, score_blocks
from fewstep.metrics.saved import as_saved, outside
from fewstep.model import Model
from fewstep.refining import Blocks
from fewstep.rows import in_pieces
from fewstep.samplers import Sampler
from fewstep.shards import Column, Shards
from fewstep.solvers import integrate
from stages.artifacts import places, timings
from stages.artifacts.scratch import root
from stages.evaluation import by_features
from stages.evaluation.by_features import Features
from stages.evaluation.entries import Entry, Result
from stages.figures.sample_grid import samples_shown
from stages.process.device import device

NOTHING: Features = {}
FIRST_BYTES = 2**26  # of samples that are kept whole, for what is measured on the samples themselves


@dataclass(frozen=True)
class Protocol:
    """How many samples, of which noise, in which network calls."""

    blocks: int
    samples: int
    batch: int
    seed: int

    @torch.no_grad()
    def sample(
        self,
        block: int,
        model: Model,
        flow: Flow,
        grid: Grid,
        sampler: Sampler | None = None,
        refined: tuple[Model, Blocks] | None = None,
    ) -> Iterator[Tensor]:
        """Yield a block of samples, (batch, *shape) at a time, on the CPU; all models get the same noise.

        A `sampler` takes the steps instead of the grid's solver; or blocks of steps do, with a refiner.
        """
        indices = range(block * self.samples, (block + 1) * self.samples)
        for noise, conditions in draws_of(
            model,
            "evaluate",
            self.seed,
            indices,
            batch=self.batch,
            device=device(),
        ):
            if refined is not None:
                refiner, blocks = refined
                yield refining.follow(flow, refiner, noise, blocks, times=grid.times, **conditions).x.cpu()
                continue
            if sampler is None:
                yield integrate(flow, noise, grid, **conditions).x.cpu()
                continue
            keys = randomness.keys_of(self.seed, indices.start, indices.start + len(noise))
            indices = indices[len(noise) :]
            yield samplers.sample(flow, noise, grid.times, sampler, keys=keys, **conditions).x.cpu()

    def texts(self, block: int, model: Model) -> list[str]:
        """Return what the samples of a block are conditioned on, for people; [] if nobody wrote it down."""
        return model.conditions.texts("evaluate", self._keys(block))

    def labels(self, block: int, model: Model) -> Tensor | None:
        """Return the classes that the samples of a block are conditioned on; None without any."""
        return model.conditions.labels("evaluate", self._keys(block))

    def _keys(self, block: int) -> Tensor:
        return randomness.keys_of(self.seed, block * self.samples, (block + 1) * self.samples)


@dataclass(frozen=True)
class Constants:
    """What is worked out once an evaluation, from all of the data, a piece at a time."""

    references: tuple[Reference, ...]
    """By each net."""
    floors: tuple[Floor, ...]
    shares: np.ndarray  # (classes,)  of the classes that the first net finds in the training data
    held_out_distance: float
    """The median distance of held-out data to the nearest training sample."""
    statistics: Mapping[str, Moments] = field(default_factory=dict)
    """By the name of each network that the user asked for, what its features are compared with."""


def measure_constants(
    prepared: Path, nets_folder: Path, protocol: Protocol, features: Features = NOTHING
) -> Constants:
    """Return the constants of the data that `prepare` wrote, as the nets of a folder see it."""
    nets, seed, through = list(load_nets(nets_folder).values()), protocol.seed, codec.of_prepared(prepared)
    train, held_out = (Column(Shards(prepared / split), "data") for split in ("train", "held_out"))
    moments: list[Moments] = []
    counts = np.zeros(nets[0].classes)
    for part in in_pieces(codec.decoded(train.some(LOOKED_AT, seed=seed), through)):
        found = [Moments.of(net.features(part)) for net in nets]
        moments = list(map(add, moments, found)) if moments else found
        counts += np.bincount(nets[0].classify(part), minlength=len(counts))
    some, others = (codec.decoded(data.some(KEPT, seed=seed), through) for data in (train, held_out))
    references = tuple(Reference(found, net.features(some)) for found, net in zip(moments, nets, strict=True))
    floors = tuple(
        measure_floor(reference, net.features(others), block=protocol.samples, seed=seed)
        for reference, net in zip(references, nets, strict=True)
    )
    few = first_of(in_pieces(held_out.some(protocol.samples, seed=seed)))
    as_vectors = partial(vectors, saved=nets[0].pixels and through is None)
    distance = median_nearest(as_vectors(few), map(as_vectors, in_pieces(train)))
    statistics = by_features.references(features, in_pieces(codec.decoded(train, through)))
    return Constants(references, floors, counts / counts.sum(), distance, statistics)


class Yardstick:
    """Nets and constants, to measure entries with; images are measured as a codec shows them."""

    def __init__(
        self,
        prepared: Path,
        nets_folder: Path,
        protocol: Protocol,
        constants: Constants,
        features: Features = NOTHING,
    ) -> None:
        self.nets = load_nets(nets_folder)
        self.backends = {name: asked.load() for name, asked in features.items()}
        self.codec: Codec | None = codec.of_prepared(prepared)
        self.train = Column(Shards(prepared / "train"), "data")
        self.protocol, self.constants = protocol, constants

    def measure(self, entry: Entry, model: Model, flow: Flow, refiner: Model | None = None) -> Result:
        """Sample an entry's blocks and score them."""
        nets, seed = list(self.nets.values()), self.protocol.seed
        sampler = entry.sampler.options if entry.sampler else None
        refined = (refiner, entry.refinement.blocks) if refiner and entry.refinement else None
        features: list[list[np.ndarray]] = [[] for _ in nets]
        beyond, took = 0.0, 0.0
        labels: list[np.ndarray] = []
        firsts: list[Tensor] = []
        most = most_whole(model.config.shape)
        sums = by_features.Sums(self.backends, self.constants.statistics, self.protocol.blocks)
        for block in range(self.protocol.blocks):
            seen: list[list[np.ndarray]] = []
            texts = self.protocol.texts(block, model)
            began = time.perf_counter()
            for part in self.protocol.sample(block, model, flow, entry.grid, sampler, refined):
                took += time.perf_counter() - began
                images = codec.seen(part, self.codec)
                seen.append([net.features(images) for net in nets])
                sums.add(block, images, texts[: len(part)])
                texts = texts[len(part) :]
                beyond += outside(images) * len(part)
                if block == 0:
                    labels.append(nets[0].classify(images))
                    firsts.append(part[: max(0, most - sum(map(len, firsts)))])
                began = time.perf_counter()
            for by_net, parts in zip(features, zip(*seen, strict=True), strict=True):
                by_net.append(np.concatenate(parts))
        first, count = torch.cat(firsts), self.protocol.blocks * self.protocol.samples
        timings.note(root() / places.SAMPLING_SECONDS, entry.name, 1000 * took / count)
        neighbours = manifold_scores(self.constants.references[0].features, features[0][0], seed=seed)
        found, asked = np.concatenate(labels), self.protocol.labels(0, model)
        more = {name: neighbours[name] for name in ("precision", "recall", "density", "coverage")} | {
            "nearest_neighbour_ratio": self._copying(first),
            "class_share_difference": largest_share_difference(found, self.constants.shares),
            "class_accuracy": share_of_right(nets[0], found, asked),
            "outside": beyond / count if nets[0].pixels else None,
        }
        scores = tuple(
            score_blocks(reference, by_net, floor=floor, seed=seed)
            for reference, by_net, floor in zip(
                self.constants.references, features, self.constants.floors, strict=True
            )
        )
        shown = codec.seen(first[: samples_shown(first.shape[1:])], self.codec).clone()
        return Result(scores, more, shown, first, sums.scores())

    def _copying(self, samples: Tensor) -> float | None:
        """Return how far samples are from the training data, over how far held-out data is.

        None if at least half of the held-out data repeats training data: there is nothing to compare with.
        """
        if not (usual := self.constants.held_out_distance):
            return None
        as_vectors = partial(vectors, saved=self.nets[FIRST].pixels and self.codec is None)
        return median_nearest(as_vectors(samples), map(as_vectors, in_pieces(self.train))) / usual


def share_of_right(net: FeatureNet, found: np.ndarray, asked: Tensor | None) -> float | None:
    """Return the share of samples in which a net finds the class, (n,), that they were asked to be of.

    None if they were asked for none, or the net was not taught by the classes of the data.
    """
    if asked is None or net.taught_by != "labels":
        return None
    return float(np.mean(found == asked.numpy()))


def most_whole(shape: tuple[int, ...]) -> int:
    """Return how many samples of that shape are kept whole."""
    return max(1, FIRST_BYTES // (math.prod(shape) * 4))


def first_of(parts: Iterable[Tensor]) -> Tensor:
    """Return the samples (n, *shape) that are kept whole, of those that come (m, *shape) at a time."""
    kept: list[Tensor] = []
    for part in parts:
        kept.append(part)
        if sum(map(len, kept)) >= (most := most_whole(tuple(part.shape[1:]))):
            return torch.cat(kept)[:most]
    return torch.cat(kept)


def vectors(samples: Tensor, *, saved: bool) -> np.ndarray:
    """Return samples (n, *shape), perhaps as they are `saved`, as vectors (n, dims)."""
    return (as_saved(samples) if saved else samples).flatten(1).numpy()
