"""Inverted pairs: real data and the noise that a flow takes to it, among pairs that it makes of noise."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from operator import add
from pathlib import Path

import torch
from torch import Tensor

from fewstep.errors import UserError
from fewstep.grids import Grid
from fewstep.noises import Law
from fewstep.pairs import PairStatistics, invert_pairs
from fewstep.shards import Shards
from fewstep.shards.write import Make
from stages.process.device import device
from stages.sampling.pairs import PairMaker
from stages.sampling.splits import HELD_OUT, TRAIN

CHECKED = 256  # inverted pairs that are followed once more
AT_ONCE = 4096  # that are read together


@dataclass(frozen=True, kw_only=True)
class InvertedMaker:
    """Pairs of a model of which a share is inverted, evenly among the others."""

    maker: PairMaker
    share: float
    data: Path
    """The train split of `prepare`."""

    def ready(self) -> Make:
        """Return what makes samples by their numbers.

        Raises:
            UserError: if the share is of fewer than 2 pairs, or of more than there are real samples, if these
                are of another shape, or if the model has conditions beside the label.
        """
        opened, data = self.maker.open(), Shards(self.data)
        steps = opened.steps
        assert isinstance(steps, Grid)  # no tolerance: settings refuse it
        wanted, shape = len(real(range(self.maker.total), self.share)), opened.model.config.shape
        if wanted < 2:
            raise UserError(
                f"{self.maker.purpose} inverts {wanted} of {self.maker.total} pairs, and they are checked "
                "against each other; raise invert, a share of the pairs, or set it to 0"
            )
        if data.samples < wanted:
            raise UserError(
                f"{self.maker.purpose} inverts {wanted} samples, but there are {data.samples} to train on; "
                "lower invert, a share of the pairs, or the pairs"
            )
        if tuple(data.fields["data"]["shape"]) != shape:
            raise UserError(
                f"{self.maker.purpose} can't invert the data, which is of shape "
                f"{tuple(data.fields['data']['shape'])}: the model takes {shape}"
            )
        if opened.model.config.conditions:
            raise UserError(
                f"{self.maker.purpose} can't invert the data: the model has the conditions "
                f"{', '.join(opened.model.config.conditions)}, and pairs keep only rows of its table; set "
                "invert to 0"
            )
        names = ("data", "label") if opened.model.config.classes else ("data",)

        def make(start: int, stop: int) -> dict[str, Tensor]:
            numbers = real(range(start, stop), self.share)
            if not numbers:
                return opened.make(start, stop)
            chosen = data.take(torch.tensor(list(numbers.values())), names)
            inverted = invert_pairs(opened.flow, chosen, steps, batch=self.maker.batch, device=device())
            if len(numbers) == stop - start:
                return inverted
            made, rows = opened.make(start, stop), torch.tensor(list(numbers)) - start
            return {name: field.index_copy(0, rows, inverted[name]) for name, field in made.items()}

        return make

    def count(self, fields: dict[str, Tensor]) -> str:
        """Return what is to be known of the pairs of a shard without a network."""
        return self.maker.count(fields)


def real(numbers: range, share: float) -> dict[int, int]:
    """Return those of the numbers whose pairs are inverted, and the number of the real sample of each."""
    return {i: math.floor(i * share) for i in numbers if math.floor((i + 1) * share) > math.floor(i * share)}


class InvertedPairs:
    """The inverted ones among finished pairs, for their checks."""

    def __init__(self, made: dict[str, Shards], share: float) -> None:
        first, self.made = made[TRAIN].samples, made
        total = first + made[HELD_OUT].samples
        numbers = torch.tensor(list(real(range(total), share)), dtype=torch.long)
        self._numbers = {TRAIN: numbers[numbers < first], HELD_OUT: numbers[numbers >= first] - first}
        self.count = len(numbers)

    def others_held_out(self) -> dict[str, Tensor]:
        """Return the held-out pairs that are not inverted; all of them if fewer than 2 are not."""
        held_out, inverted = self.made[HELD_OUT], self._numbers[HELD_OUT]
        if not len(inverted) or held_out.samples < len(inverted) + 2:
            return held_out.load()
        others = torch.ones(held_out.samples, dtype=torch.bool)
        others[inverted] = False
        return held_out.take(others.nonzero()[:, 0])

    def some(self) -> dict[str, Tensor]:
        """Return up to CHECKED inverted pairs, evenly among all of them."""
        every = math.ceil(self.count / CHECKED)
        parts = [self.made[split].take(rows[::every]) for split, rows in self._numbers.items() if len(rows)]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def statistics(self, law: Law) -> PairStatistics:
        """Return the sums over all inverted pairs, whose noise has the law `law`."""
        return reduce(add, (PairStatistics.of(part, total=self.count, law=law) for part in self._parts()))

    def _parts(self) -> Iterator[dict[str, Tensor]]:
        for split, numbers in self._numbers.items():
            for rows in numbers.split(AT_ONCE) if len(numbers) else ():
                yield self.made[split].take(rows, ("noise", "data"))
