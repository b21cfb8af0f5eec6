"""Distances in features of networks that the user names, and how well images fit their texts."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fewstep.errors import UserError
from fewstep.files import sha256
from fewstep.metrics.backend import Backend, distance_name, must_be_images, read_statistics, saved_bytes
from fewstep.metrics.frechet import Moments, frechet_distance
from fewstep.metrics.protocol import jackknife_error
from stages.process.device import device
from stages.settings.features import FeatureSettings


@dataclass(frozen=True)
class NamedNet:
    """A network that the user names, and where its files lie; it can be sent to a process."""

    options: Any
    """Of a file of fewstep.metrics.backends."""
    places: dict[str, Path]
    reference: Path | None
    """The file of the statistics that samples are compared with; None for those of the training data."""

    def load(self) -> Backend:
        """Return the network."""
        return self.options.load(self.places, device())

    def statistics(self) -> Moments | None:
        """Return those of the file."""
        return None if self.reference is None else read_statistics(self.reference)


Features = Mapping[str, NamedNet]


def asked_for(settings: Mapping[str, FeatureSettings], inputs: Mapping[str, Path]) -> Features:
    """Return what settings name, of which the inputs of a stage are the files."""
    return {
        name: NamedNet(
            each.backend.options,
            {what: inputs[f"features {name} {what}"] for what in each.backend.options.paths()},
            inputs.get(f"features {name} reference"),
        )
        for name, each in settings.items()
    }


def protocols(features: Features, shape: Sequence[int], *, pixels: bool) -> dict[str, str]:
    """Return, by name, what decides the numbers of each network, as people read it.

    Args:
        features: What the user named.
        shape: Of the samples as they are seen.
        pixels: Whether they are images.

    Raises:
        UserError: if a file can't be read or is not the one that is meant, or samples are no images.
    """
    if features:
        must_be_images(shape, pixels=pixels)
    told = {}
    for name, asked in features.items():
        backend, statistics, of = asked.load(), asked.statistics(), "training data"
        made = backend.features(torch.zeros((1, 3, *shape[1:]), dtype=torch.uint8)).shape[1]
        if statistics is not None:
            if made != len(statistics.mean):
                raise UserError(
                    f"evaluate.features.{name}: the network makes {made} features, its reference is of "
                    f"{len(statistics.mean)}; take statistics of the same network"
                )
            assert asked.reference is not None
            of = f"{asked.reference.name} sha256:{sha256(asked.reference)[:8]}"
        told[name] = f"{backend.protocol}; against {of}"
    return told


def references(features: Features, train: Iterable[Tensor]) -> dict[str, Moments]:
    """Return, by name, what samples are compared with; `train` yields images (n, C, H, W) in [-1, 1]."""
    said = {name: asked.statistics() for name, asked in features.items()}
    open_ones = {name: features[name].load() for name, moments in said.items() if moments is None}
    found: dict[str, list[Moments]] = {name: [] for name in open_ones}
    for part in train if open_ones else ():
        images = saved_bytes(part)
        for name, backend in open_ones.items():
            found[name].append(moments_of(backend, images))
    return {name: reduce(add, found[name]) if moments is None else moments for name, moments in said.items()}


class Sums:
    """What is added up of an entry's samples, a piece at a time."""

    def __init__(
        self, backends: Mapping[str, Backend], references: Mapping[str, Moments], blocks: int
    ) -> None:
        self.backends, self.references = backends, references
        self.moments: dict[str, list[list[Moments]]] = {
            name: [[] for _ in range(blocks)] for name in backends
        }
        self.fits: dict[str, list[Tensor]] = {name: [] for name in backends}

    def add(self, block: int, images: Tensor, texts: Sequence[str]) -> None:
        """Add images (n, C, H, W), meant for [-1, 1], and what each is conditioned on, if that is known."""
        if not self.backends:
            return
        saved = saved_bytes(images)
        for name, backend in self.backends.items():
            self.moments[name][block].append(moments_of(backend, saved))
            if texts and backend.compares_texts:
                self.fits[name].append(backend.similarity(saved, texts))

    def scores(self) -> dict[str, dict[str, float]]:
        """Return, by name, the distance with its standard error, and the mean cosine of images and texts."""
        found = {}
        for name, backend in self.backends.items():
            blocks = [reduce(add, parts) for parts in self.moments[name]]
            of, pooled = self.references[name], reduce(add, blocks)
            without = [reduce(add, blocks[:i] + blocks[i + 1 :]) for i in range(len(blocks))]
            called = distance_name(backend.inception, pooled.count)
            found[name] = {
                called: frechet_distance(of, pooled),
                f"{called}_se": jackknife_error([frechet_distance(of, part) for part in without]),
            }
            if self.fits[name]:
                found[name]["similarity"] = float(torch.cat(self.fits[name]).double().mean())
        return found


def moments_of(backend: Backend, images: Tensor) -> Moments:
    """Return the moments of the features of images, uint8 (n, 3, height, width)."""
    return Moments.of(backend.features(images).double().numpy())
