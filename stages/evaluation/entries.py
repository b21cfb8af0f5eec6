"""One entry of the evaluation: a model, sampled on a grid and scored by the protocol of fewstep.metrics.

Entries are kept in a folder that all evaluations share, under a digest of everything that decides them:
a changed student costs its own entries alone, and a killed evaluation goes on at the next entry.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from fewstep.draws import draws
from fewstep.flow import Flow
from fewstep.grids import Grid
from fewstep.metrics.classes import largest_share_difference
from fewstep.metrics.denoiser import NAME as MONITOR_NET
from fewstep.metrics.features import FeatureNet, load
from fewstep.metrics.frechet import Moments, frechet_distance
from fewstep.metrics.neighbours import manifold_scores, nearest_neighbour_ratio
from fewstep.metrics.protocol import BlockScores, Floor, Reference, measure_floor, score_blocks
from fewstep.metrics.straightness import endpoint_rmse
from fewstep.model import Model
from fewstep.shards import Shards
from fewstep.solvers import Solution, integrate
from stages.evaluation import timings
from stages.figures.sample_grid import samples_shown
from stages.process.device import device


@dataclass(frozen=True)
class Entry:
    """What to sample: a model on a grid."""

    model: str
    kind: str
    """Where the grid comes from: uniform, own (a student's), or the name of a search."""
    grid: Grid
    nfe: int
    digest: str
    """Of the model."""

    @property
    def name(self) -> str:
        """Such as boss-4@4, or pretrain@4/bellman for a grid that is neither equal steps nor its own."""
        suffix = "" if self.kind in ("uniform", "own") else f"/{self.kind}"
        return f"{self.model}@{self.nfe}{suffix}"


@dataclass(frozen=True)
class Result:
    """What was measured of an entry."""

    scores: BlockScores
    more: dict[str, float | None]
    samples: Tensor  # (n, *shape), the first samples


@dataclass(frozen=True)
class Protocol:
    """How many samples, of which noise, in which network calls."""

    blocks: int
    samples: int
    batch: int
    seed: int

    def noise(self, block: int, model: Model) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        """Yield noise and conditions of one block, a network call at a time; the same for every model."""
        indices = range(block * self.samples, (block + 1) * self.samples)
        shape, classes = model.config.shape, model.config.classes
        return draws(
            "evaluate", self.seed, indices, shape=shape, classes=classes, batch=self.batch, device=device()
        )

    @torch.no_grad()
    def sample(self, block: int, model: Model, flow: Flow, grid: Grid) -> Tensor:
        """Return one block of samples, (samples, *shape), on the CPU."""
        parts: list[Solution] = [
            integrate(flow, noise, grid, **labels) for noise, labels in self.noise(block, model)
        ]
        return torch.cat([part.x.cpu() for part in parts])


class Yardstick:
    """The prepared data and two feature nets, the metric's and the monitor's, to hold every entry against."""

    def __init__(self, prepared: Path, protocol: Protocol) -> None:
        self.net: FeatureNet = load(prepared)[0]
        self.other: FeatureNet = load(prepared, name=MONITOR_NET)[0]
        self.train = Shards(prepared / "train").load()["data"]
        self.held_out = Shards(prepared / "held_out").load()["data"]
        self.reference = Reference(self.net.features(self.train))
        self.classes = self.net.classify(self.train)
        self.other_moments = Moments.of(self.other.features(self.train))
        self.protocol = protocol
        held_out = self.net.features(self.held_out)
        self.floor: Floor = measure_floor(
            self.reference, held_out, block=protocol.samples, seed=protocol.seed
        )

    def measure(self, entry: Entry, model: Model, flow: Flow, truth: Tensor) -> Result:
        """Sample an entry's blocks and score them; `truth` is where block 0 should land."""
        began = time.perf_counter()
        first = self.protocol.sample(0, model, flow, entry.grid)
        timings.record_timing(entry.name, 1000 * (time.perf_counter() - began) / len(first))
        features, moments = [self.net.features(first)], Moments.of(self.other.features(first))
        for block in range(1, self.protocol.blocks):
            samples = self.protocol.sample(block, model, flow, entry.grid)
            features.append(self.net.features(samples))
            moments += Moments.of(self.other.features(samples))
        seed = self.protocol.seed
        neighbours = manifold_scores(self.reference.features, features[0], seed=seed)
        copying = nearest_neighbour_ratio(
            *(data.flatten(1).numpy() for data in (first, self.train, self.held_out))
        )
        shares = largest_share_difference(self.net.classify(first), self.classes, self.net.classes)
        more = {name: neighbours[name] for name in ("precision", "recall", "density", "coverage")} | {
            "nearest_neighbour_ratio": copying,
            "class_share_difference": shares,
            "fd_monitor": frechet_distance(self.other_moments, moments),
            "endpoint_rmse": endpoint_rmse(first[: len(truth)], truth),
        }
        scores = score_blocks(self.reference, features, floor=self.floor, seed=seed)
        return Result(scores, more, first[: samples_shown(first.shape[1:])].clone())


class KeptEntries:
    """The folder of finished entries; other evaluations may read and write it meanwhile.

    An evaluation touches `began` when it starts, and then every entry that it uses: what is older than
    `began`, the newest evaluation has no use for (`make gc`).
    """

    def __init__(self, folder: Path, *facts: Any) -> None:
        """`facts` decide all entries alike: the protocol, the prepared data, the version of the code."""
        self.folder, self.facts = folder, facts
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "began").touch()

    def read(self, entry: Entry) -> Result | None:
        """Return what was measured of an entry, None if it was not or its files are damaged."""
        file = self._file(entry)
        grid = file.with_suffix(".safetensors")
        try:
            found = json.loads(file.read_text())
            scores = BlockScores(**found["scores"] | {"fd_without": tuple(found["scores"]["fd_without"])})
            result = Result(scores, found["more"], load_file(grid)["samples"])
            for used in (file, grid):
                os.utime(used)
        except (OSError, ValueError, KeyError, TypeError, SafetensorError):
            return None
        return result

    def write(self, entry: Entry, result: Result) -> None:
        """Keep an entry, whole or not at all: the JSON comes last, under its name at once."""
        file = self._file(entry)
        text = json.dumps({"scores": asdict(result.scores), "more": result.more})
        put(file.with_suffix(".safetensors"), lambda partial: save_file({"samples": result.samples}, partial))
        put(file, lambda partial: partial.write_text(text))

    def _file(self, entry: Entry) -> Path:
        decides = json.dumps([entry.digest, entry.grid.to_json(), *self.facts], sort_keys=True)
        return self.folder / f"{hashlib.sha256(decides.encode()).hexdigest()[:32]}.json"


def put(file: Path, write: Callable[[Path], Any]) -> None:
    """Make a file appear at once; `write` fills a path that no other process writes to."""
    partial = file.with_name(f"{file.name}.{os.getpid()}.tmp")
    write(partial)
    partial.replace(file)
