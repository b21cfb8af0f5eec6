"""What an evaluation measures: every entry once, by workers, and the reference until it converges."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from fewstep.checkpoint import model_digest
from fewstep.errors import UserError
from fewstep.flow import as_flow
from fewstep.metrics.features import FeatureNet
from fewstep.metrics.nets import FIRST, load_nets
from fewstep.metrics.protocol import moved
from fewstep.model import Model, ModelConfig
from fewstep.shards import Shards
from stages.artifacts import places
from stages.artifacts.scratch import root
from stages.evaluation import by_features, kinds
from stages.evaluation.by_features import Features
from stages.evaluation.entries import Entry, KeptEntries, Result
from stages.evaluation.listed import entries_of, nfe_of, sampled_entries
from stages.evaluation.refined import models_in, refined_entries
from stages.evaluation.yardstick import Constants, Protocol, Yardstick, measure_constants
from stages.process.device import device
from stages.run.job import Job
from stages.sampling.open_model import grid_of_nfe, open_model, open_sampler
from stages.settings.fields import Precision, fact_of_precision
from stages.settings.refined import RefinedSettings
from stages.settings.samplers import SamplerSettings
from stages.workers.spread import spread

DOUBLINGS = 4  # of the fine run's NFE, before it counts as one that does not converge


class ChangedError(UserError):
    """A model is not the one that was to be measured."""


@dataclass(frozen=True)
class FineRun:
    """How the model that others are compared with is run until it converges."""

    model: str
    solver: str
    nfe: int
    """Of the first run; each further one doubles it."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What an evaluation is asked for."""

    job: Job
    """Of the evaluate stage; its inputs may be those alone that are there already."""
    protocol: Protocol
    """How many samples, of which noise."""
    fine: FineRun
    """The run that gives the truth, and to which distances are compared."""
    nfe: tuple[int, ...]
    """NFE at which models trained at all times are sampled with equal steps."""
    scales: Mapping[str, tuple[float, ...]]
    """By name, the guidance at which students are sampled that take it as an input; see entries_of."""
    samplers: Mapping[str, SamplerSettings]
    """By name, which models are sampled with other steps than a solver's."""
    features: Features
    """By name, networks that the user asked for, in whose features samples are compared, too."""
    refined: Mapping[str, RefinedSettings]
    """By name, which models are sampled with a refiner beside them."""
    precision: Precision
    """The type in which networks of models compute."""
    version: int
    """Of the code that measures; entries that another version measured are not used."""

    @property
    def folders(self) -> dict[str, Path]:
        """The model directories, by name."""
        inputs = self.job.inputs
        return {name.removeprefix("model "): inputs[name] for name in inputs if name.startswith("model ")}

    def entries(self) -> tuple[list[Entry], dict[str, ModelConfig]]:
        """Return what is to be measured, and the config of each model that makes samples."""
        entries: list[Entry] = []
        configs: dict[str, ModelConfig] = {}
        for name, model in models_in(self.folders, self.job.progress):
            entries += entries_of(name, model, self.nfe, self.job, self.scales.get(name))
            entries += sampled_entries(name, model, self.samplers, model_digest(self.folders[name]))
            entries += refined_entries(name, model, self.refined, self.folders, self.job.seed)
            configs[name] = model.config
            del model  # before the next is read
        return entries, configs

    def networks(self, nets: Mapping[str, FeatureNet]) -> dict[str, str]:
        """Return what decides the numbers by each network that the user asked for, by name."""
        return by_features.protocols(self.features, nets[FIRST].shape, pixels=nets[FIRST].pixels)

    def measurements(self) -> "Measurements":
        """Return what measures the entries, with the place where they are kept; none is read yet."""
        nets = load_nets(self.job.inputs["nets"])
        networks = self.networks(nets)
        splits = [Shards(self.job.inputs["data"] / split).digest for split in ("train", "held_out")]
        data = [*splits, *(net.digest for net in nets.values())]
        facts = [vars(self.protocol), data, model_digest(self.folders[self.fine.model]), self.version]
        facts += [networks] if networks else []
        kept = KeptEntries(root() / places.ENTRIES, *facts, *fact_of_precision(self.precision).items())
        return Measurements(self.job, self.protocol, self.folders, self.precision, kept, {}, self.features)


@dataclass
class Measurements:
    """Entries and what was measured of them: the kept ones for free, and what workers measure now."""

    job: Job
    protocol: Protocol
    folders: dict[str, Path]
    """The model directories."""
    precision: Precision
    kept: KeptEntries
    results: dict[Entry, Result]
    features: Features

    @cached_property
    def constants(self) -> Constants:
        """The constants of the data."""
        inputs = self.job.inputs
        return measure_constants(inputs["data"], inputs["nets"], self.protocol, self.features)

    def measure(self, entries: Sequence[Entry]) -> None:
        """Measure those that were not measured before, here or by an earlier evaluation.

        Raises:
            ChangedError: a model is not what it was when it was listed; all others are measured.
        """
        for entry in entries:
            if entry in self.results:
                continue
            if self.job.again:
                self.kept.forget(entry)
            if result := self.kept.read(entry, self.job.progress.note):
                self.results[entry] = result.without_ends()
        missing = [entry for entry in entries if entry not in self.results]
        self.job.progress.start("entries", len(entries), done=len(entries) - len(missing), unit="entry")
        if not missing:
            return
        shared = (
            self.job.inputs["data"],
            self.job.inputs["nets"],
            self.protocol,
            self.constants,
            self.features,
            self.folders,
            self.precision,
        )
        missing.sort(key=lambda entry: -entry.nfe)
        changed: set[str] = set()
        for entry, result in spread(measure, missing, start_worker=start_worker, facts=shared):
            if result is None:
                changed.add(entry.model)
                continue
            self.kept.write(entry, result)
            self.results[entry] = result.without_ends()
            self.job.progress.advance(fd_clf=result.scores[0].fd_clf)
        if changed:
            raise ChangedError(
                f"{', '.join(sorted(changed))} changed while evaluate measured it; run evaluate again"
            )


def converge(
    measured: Measurements, teacher: Model, fine: FineRun, entries: Sequence[Entry]
) -> dict[float, tuple[Entry, str]]:
    """Measure the entries, and the reference at twice the NFE until it converges, for each scale of guidance.

    The entries are measured with the first two fine runs, so that no worker waits for the longest of these.

    Returns:
        The finest run, and a sentence about how it converged.
    """
    digest, found = model_digest(measured.folders[fine.model]), {}
    guidances = {1.0} | {entry.guidance for entry in entries}
    runs = {guidance: [fine_entry(teacher, fine, 0, guidance, digest)] for guidance in sorted(guidances)}
    while runs:
        for guidance, own in runs.items():
            own.append(fine_entry(teacher, fine, len(own), guidance, digest))
        measured.measure([*(entry for own in runs.values() for entry in own), *entries])
        for guidance, own in list(runs.items()):
            last = own[-1]
            by = moved(measured.results[own[-2]].scores, measured.results[last].scores)
            if not by.little and len(own) <= DOUBLINGS:
                continue
            far = "has converged" if by.little else "has not converged, so ratios to it are too low"
            remedy = "" if by.little else "; raise evaluate.reference_nfe"
            told = (
                f"{last.name} {far}: its distance moved by {by.share:.1%}, {by.errors:.2g} of its error, "
                f"when the steps were doubled{remedy}"
            )
            measured.job.progress.note(told)
            found[guidance] = last, told
            del runs[guidance]
    return found


def fine_entry(teacher: Model, fine: FineRun, doublings: int, guidance: float, digest: str) -> Entry:
    """Return a fine run of the reference."""
    flow = as_flow(teacher, guidance=guidance)
    grid = replace(
        grid_of_nfe(flow, fine.solver, fine.nfe * flow.nfe_per_velocity * 2**doublings),
        guidance=guidance,
    )
    return Entry(fine.model, kinds.FINE, grid, nfe_of(grid, teacher), digest, guidance)


def ahead(wanted: Wanted) -> None:
    """Measure the models that are there, for an evaluation to come, which finds their entries kept.

    A GPU is left to the stage that works on it, which may need all its memory.
    """
    if device() != "cpu":
        return
    try:
        entries, _ = wanted.entries()
        converge(wanted.measurements(), open_model(wanted.folders[wanted.fine.model]), wanted.fine, entries)
    except ChangedError:
        return  # a stage that runs meanwhile makes a model again
    except UserError:
        if all(folder.exists() for folder in wanted.folders.values()):
            raise


WORKER: dict[str, Any] = {}  # what a worker process keeps from one entry to the next


def start_worker(
    prepared: Path,
    nets: Path,
    protocol: Protocol,
    constants: Constants,
    features: Features,
    folders: dict[str, Path],
    precision: Precision,
) -> None:
    """Load the nets, and what every entry is compared with."""
    yardstick = Yardstick(prepared, nets, protocol, constants, features)
    WORKER.update(yardstick=yardstick, folders=folders, precision=precision)


def measure(entry: Entry) -> Result | None:
    """Measure one entry, in a worker process; return None if its models are not those that were listed."""
    folders, precision = WORKER["folders"], WORKER["precision"]
    listed = {folders[entry.model]: entry.digest}
    if entry.refinement:
        listed[folders[entry.refinement.refiner]] = entry.refinement.digest
    try:
        model, *refiners = (open_sampler(folder, precision) for folder in listed)
    except UserError:
        if all(is_there(folder, digest) for folder, digest in listed.items()):
            raise
        return None
    if not all(is_there(folder, digest) for folder, digest in listed.items()):
        return None
    flow = as_flow(model, guidance=entry.grid.guidance)
    return WORKER["yardstick"].measure(entry, model, flow, *refiners)


def is_there(folder: Path, digest: str) -> bool:
    """Return whether a folder holds the model with this digest."""
    try:
        return model_digest(folder) == digest
    except UserError:
        return False
