"""Inverted pairs: real data and the noise that a flow takes to it, among pairs that it makes of noise."""

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fewstep.errors import UserError
from fewstep.grids import Grid
from fewstep.pairs import invert_pairs
from fewstep.shards import Shards
from fewstep.shards.write import Make
from stages.process.device import device
from stages.sampling.pairs import PairMaker


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
            UserError: if there are fewer real samples than the share asks for, or of another shape, or the
                model has conditions beside the label.
        """
        opened, data = self.maker.open(), Shards(self.data)
        steps = opened.steps
        assert isinstance(steps, Grid)  # no tolerance: settings refuse it
        wanted, shape = len(real(range(self.maker.total), self.share)), opened.model.config.shape
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
