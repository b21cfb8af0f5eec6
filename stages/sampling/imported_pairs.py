"""Pairs that another tool made: how the couple stage takes them, as if its model had made them."""

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from fewstep.errors import UserError
from fewstep.pairs import PairStatistics
from fewstep.pairs.imported import ForeignPairs, open_pairs
from fewstep.shards import Shards
from fewstep.shards.write import Make
from stages.run.job import Job
from stages.sampling.makers import Opened
from stages.sampling.splits import HELD_OUT, Splits


@dataclass(frozen=True, kw_only=True)
class ForeignMaker:
    """Where the pairs are, and how many of them are wanted."""

    source: str
    root: Path
    """The folder that holds data/."""
    purpose: str
    """The setting that asks, for messages."""
    total: int
    """Pairs in all."""

    def open(self) -> ForeignPairs:
        """Open the file of pairs.

        Raises:
            UserError: if it can't be read, or has too few.
        """
        pairs = open_pairs(self.source, self.root)
        if pairs.count < self.total:
            raise UserError(
                f"{self.source} holds {pairs.count} pairs, but {self.purpose} asks for {self.total} to train "
                f"on and to hold out; lower {self.purpose}.pairs or held_out"
            )
        return pairs

    def ready(self) -> Make:
        """Return what reads pairs by their numbers."""
        return self.open().read

    def count(self, fields: dict[str, Tensor]) -> str:
        """Return what is to be known of the pairs of a shard without a network."""
        return PairStatistics.of(fields, total=self.total).to_json()


def take(source: str, job: Job, wanted: Splits, opened: Opened) -> Shards:
    """Take pairs from a file, and return the held-out ones.

    Raises:
        UserError: if they are too few, damaged, or not of the model's shape and classes.
    """
    total = sum(recipe.samples for recipe in wanted.recipes.values())
    maker = ForeignMaker(source=source, root=Path.cwd(), purpose=f"couple.{job.key}", total=total)
    maker.open().must_suit(shape=opened.model.config.shape, classes=opened.model.config.classes)
    return wanted.take(maker)[HELD_OUT]
