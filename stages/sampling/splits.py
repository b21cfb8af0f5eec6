"""Samples that a model makes of noise: two splits of shards, made by as many workers as there are.

How samples come about is a maker, a plain value that is sent to the workers. Workers put shards where all of
them and the stage reach them: in the stage's scratch, or under FEWSTEP_SHARDS, from which the stage then
fetches them. A shard is the same whoever makes it.
"""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from fewstep import checkpoint
from fewstep.files import written_whole
from fewstep.flow import ModelFlow
from fewstep.grids import Grid
from fewstep.model import Model
from fewstep.reference import Adaptive
from fewstep.shards import (
    Recipe,
    Shards,
    Store,
    clear_leftovers,
    fetch_shards,
    finish_shards,
    missing_shards,
    write_shard,
)
from fewstep.shards.fields import Field
from fewstep.shards.write import Make
from stages.run.job import Job
from stages.sampling.open_model import fewest_rows
from stages.sampling.shared_place import shared_place
from stages.workers.spread import Spread, here, spread

HELD_OUT, TRAIN = "held_out", "train"
WORKER: dict[str, Any] = {}  # what a worker keeps from one shard to the next


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
        there = store.sizes()
        for name in checkpoint.FILES:
            if name in there:
                (Path(copied) / name).write_bytes(store.read(name))
        yield Path(copied)


@dataclass(frozen=True)
class Splits:
    """What is to be made: samples to train on, numbered from 0, and held-out ones, numbered after them."""

    job: Job
    recipes: dict[str, Recipe]

    @property
    def store(self) -> Store:
        """Where the workers put shards."""
        shared = shared_place()
        return shared.below(self.job.result) if shared else Store(self.job.out.resolve())

    def missing(self) -> list[tuple[str, int]]:
        """Return the shards that are still to be made, the longest work first."""
        return [
            (split, number)
            for split, recipe in self.recipes.items()
            for number in missing_shards(self.store.below(split), recipe)
        ]

    def make(self, maker: ModelMaker) -> dict[str, Shards]:
        """Have workers make the missing shards; return both finished sets, in what is published."""
        return self._fill(self.reachable(maker), spread)

    def take(self, maker: Maker) -> dict[str, Shards]:
        """Do the same in this process, of something that other machines may not have."""
        return self._fill(maker, here)

    def _fill(self, maker: Maker, over: Spread) -> dict[str, Shards]:
        progress = self.job.progress
        for split, recipe in self.recipes.items():
            if self.job.again:
                self.store.below(split).remove(self.store.below(split).sizes())
            clear_leftovers(self.store.below(split), recipe, progress)
        missing = self.missing()
        sizes = {(s, n): len(self.recipes[s].part(n)) for s, n in missing}
        total = sum(recipe.samples for recipe in self.recipes.values())
        progress.start("", total, done=total - sum(sizes.values()), unit="sample")
        if missing:
            facts = (self.store.url, maker, self.recipes)
            for item, rows in over(make_one, missing, start_worker=start_worker, facts=facts):
                self._note_rows(rows)
                progress.advance(sizes[item])
        self._note_rows(None)
        return {split: self._publishable(split) for split in self.recipes}

    def _note_rows(self, rows: int | None) -> None:
        """Note among the facts how many samples fit in a call, if fewer than a batch, before a kill too."""
        file = self.job.scratch / "rows_in_a_call"
        known = [int(file.read_text())] if file.exists() else []
        if fewest := min([*known, *([rows] if rows else [])], default=None):
            with written_whole(file) as whole:
                whole.write_text(str(fewest))
            self.job.facts["rows_in_a_call"] = fewest

    def reachable(self, maker: ModelMaker) -> ModelMaker:
        """Return the maker; where shards are shared, of a copy of the model that is shared, too."""
        if shared_place() is None:
            return maker
        model = self.store.below("model")
        for name in checkpoint.files_of(Path(maker.model)):
            model.put(name, (Path(maker.model) / name).read_bytes())
        return replace(maker, model=model.url)  # type: ignore[type-var]  # makers are dataclasses

    def _publishable(self, split: str) -> Shards:
        """Return a finished split in the folder that is published."""
        shards, folder = finish_shards(self.store.below(split), self.recipes[split]), self.job.out / split
        if Path(shards.url) == folder.resolve():
            return shards
        return fetch_shards(self.store.below(split), folder, self.job.progress)


def splits(
    job: Job,
    *,
    train: int,
    held_out: int,
    per_shard: int,
    facts: dict[str, Any],
    dtypes: dict[str, str],
    drawn: Callable[[int], dict[str, Field]] = lambda first: {},
) -> Splits:
    """Return what is to be made, and put `facts` among those of the result.

    See fewstep.shards.Recipe; `drawn` is given the number of a split's first sample.

    Raises:
        UserError: if workers could put nothing where FEWSTEP_SHARDS says.
    """
    first, recipes = 0, {}
    for split, samples in ((TRAIN, train), (HELD_OUT, held_out)):
        recipes[split] = Recipe(
            samples=samples,
            per_shard=per_shard,
            facts=facts | {"first": first},
            dtypes=dtypes,
            drawn=drawn(first),
        )
        first += samples
    job.facts.update(facts, train=train, held_out=held_out)
    wanted = Splits(job, recipes)
    Store(wanted.store.url, patient=False).sizes()  # a place that can't be reached fails at once
    return wanted


def start_worker(store: str, maker: Maker, recipes: dict[str, Recipe]) -> None:
    """Open the model in a worker."""
    WORKER.update(store=Store(store), make=maker.ready(), count=maker.count, recipes=recipes)


def make_one(item: tuple[str, int]) -> int | None:
    """Make one shard, in a worker; return how many samples fitted in a call, if fewer than the batch."""
    split, number = item
    recipe: Recipe = WORKER["recipes"][split]
    first, make = recipe.facts["first"], WORKER["make"]
    write_shard(
        WORKER["store"].below(split),
        recipe,
        number,
        lambda start, stop: make(first + start, first + stop),
        WORKER["count"],
    )
    return fewest_rows()
