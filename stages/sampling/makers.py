"""Makers: how samples come about; plain values that are sent to workers."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from fewstep.checkpoint import CONFIG, WEIGHTS
from fewstep.flow import ModelFlow
from fewstep.grids import Grid
from fewstep.model import Model
from fewstep.reference import Adaptive
from fewstep.shards import Store
from fewstep.shards.write import Make


class Maker(Protocol):
    """How samples come about."""

    def ready(self) -> Make:
        """Return what makes samples by their numbers; called once in each worker."""

    def count(self, fields: dict[str, Tensor]) -> Any:
        """Return what to note of a shard; see fewstep.shards.write_shard."""


@dataclass(frozen=True)
class Opened:
    """A model that is ready to make samples."""

    make: Make
    """Makes the samples of numbers start to stop."""
    model: Model
    flow: ModelFlow
    steps: Grid | Adaptive
    """The steps that are taken, or the tolerance that they meet."""


class ModelMaker(Maker, Protocol):
    """A model makes them."""

    @property
    def model(self) -> str:
        """Where the model directory lies, a path or a URL."""

    @property
    def batch(self) -> int:
        """Samples in one network call."""

    def open(self) -> Opened:
        """Open the model."""


@contextmanager
def model_folder(url: str) -> Iterator[Path]:
    """Give a model directory as a folder of this machine; one behind a URL is copied for the while."""
    store = Store(url)
    if store.folder is not None:
        yield store.folder
        return
    with tempfile.TemporaryDirectory() as copied:
        for name in (WEIGHTS, CONFIG):
            (Path(copied) / name).write_bytes(store.read(name))
        yield Path(copied)
