"""Pairs: how the couple stage has a model make them, in whichever worker, or takes those of another tool."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fewstep.errors import UserError
from fewstep.flow import Flow
from fewstep.grids import Grid
from fewstep.model import ModelConfig
from fewstep.noises import Law
from fewstep.pairs import PairStatistics, make_pairs
from fewstep.pairs.imported import ForeignPairs, open_pairs
from fewstep.reference import Adaptive
from fewstep.shards import Shards
from fewstep.shards.write import Make
from fewstep.training.networks import WEIGHT
from stages.process.device import device
from stages.run.job import Job
from stages.sampling.open_model import grid_of_nfe, open_flow
from stages.sampling.splits import HELD_OUT, TRAIN, Opened, Splits, model_folder
from stages.settings.fields import Precision

USES = {TRAIN: "to train on", HELD_OUT: "to hold out"}
OTHER_SHARES = 0.05  # apart by this, classes are said to be of other shares


@dataclass(frozen=True, kw_only=True)
class PairMaker:
    """All that decides a pair; see stages.couple.Config."""

    model: str
    """Where the model directory lies, a path or a URL."""
    purpose: str
    """Who asks, for messages."""
    seed: int
    solver: str
    nfe: int
    spacing: str
    times: tuple[float, ...] | None
    tolerance: float | None
    guidance: float
    precision: Precision
    batch: int
    law: Law
    """Of the model's noise."""
    total: int
    """Pairs in all."""

    def ready(self) -> Make:
        """Return what makes samples by their numbers."""
        return self.open().make

    def open(self) -> Opened:
        """Open the model."""
        with model_folder(self.model) as folder:
            model, flow = open_flow(
                folder, purpose=self.purpose, guidance=self.guidance, precision=self.precision
            )
        steps = self.steps(flow)

        def make(start: int, stop: int) -> dict[str, Tensor]:
            return make_pairs(
                flow,
                seed=self.seed,
                start=start,
                stop=stop,
                shape=model.config.shape,
                conditions=model.conditions,
                grid=steps,
                batch=self.batch,
                device=device(),
            )

        return Opened(make, model, flow, steps)

    def steps(self, flow: Flow) -> Grid | Adaptive:
        """Return the steps that are taken, or the tolerance that they are to meet."""
        if self.tolerance is not None:
            return Adaptive(self.tolerance)
        if self.times is not None:
            return Grid(self.times, solver=self.solver)
        return grid_of_nfe(flow, self.solver, self.nfe, spacing=self.spacing)

    def count(self, fields: dict[str, Tensor]) -> str:
        """Return what is to be known of the pairs of a shard without a network."""
        return PairStatistics.of(fields, total=self.total, law=self.law).to_json()


@dataclass(frozen=True, kw_only=True)
class ForeignMaker:
    """Where the pairs are, and how many of them are wanted."""

    source: str
    root: Path
    """The folder that holds data/."""
    purpose: str
    """The setting that asks, for messages."""
    law: Law
    """Of the model's noise."""
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
        return PairStatistics.of(fields, total=self.total, law=self.law).to_json()


def take_pairs(source: str, job: Job, wanted: Splits, opened: Opened) -> dict[str, Shards]:
    """Take pairs from a file, and return both splits.

    Raises:
        UserError: if they are too few, damaged, not of the model's shape, classes and conditions, or those of
            a split all weigh 0.
    """
    total = sum(recipe.samples for recipe in wanted.recipes.values())
    law, config = opened.model.noise, opened.model.config
    maker = ForeignMaker(source=source, root=Path.cwd(), purpose=f"couple.{job.key}", law=law, total=total)
    pairs = maker.open()
    pairs.must_suit(shape=config.shape, classes=config.classes)
    if config.conditions:
        raise UserError(
            f"{source} holds no conditions, but the model has {', '.join(config.conditions)}; have the model "
            "make the pairs"
        )
    job.facts["notes"] = pairs.notes + notes_of(pairs, total, config)
    for note in job.facts["notes"]:
        job.progress.note(note)
    taken = wanted.take(maker)
    for split, shards in taken.items():
        must_weigh(shards, f"{source}: all {shards.samples} pairs {USES[split]}")
    return taken


def must_weigh(pairs: Shards, named: str) -> None:
    """Refuse pairs, `named` so in messages, whose losses are all multiplied by 0: nothing is learnt of them.

    Raises:
        UserError: if there are weights, and all are 0.
    """
    if WEIGHT not in pairs.fields:
        return
    if not pairs.take(torch.arange(pairs.samples), [WEIGHT])[WEIGHT].any():
        raise UserError(
            f"{named} have the weight 0, which leaves no loss; give some a weight above 0, or save no weights"
        )


def notes_of(pairs: ForeignPairs, total: int, config: ModelConfig) -> list[str]:
    """Return what a user should know of taking the first `total` pairs for a model."""
    notes = []
    if pairs.count > total:
        notes.append(f"the first {total} of {pairs.count} pairs are taken")
    if config.classes:
        found = pairs.shares(total, config.classes)
        apart = [abs(share - own) for share, own in zip(found, config.class_shares, strict=True)]
        worst = max(range(config.classes), key=apart.__getitem__)
        if apart[worst] > OTHER_SHARES:
            notes.append(
                f"class {worst} is {found[worst]:.2g} of the pairs, but {config.class_shares[worst]:.2g} by "
                "class_shares in the model's config.json: pairs that stand for its data hold each as often"
            )
    return notes
