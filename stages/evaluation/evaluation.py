"""The evaluation as a whole: which entries there are, and the rows they become."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from torch import Tensor

from fewstep import codec
from fewstep.checkpoint import model_digest
from fewstep.flow import as_flow
from fewstep.metrics.features import FeatureNet
from fewstep.metrics.nets import FIRST, load_nets
from fewstep.metrics.protocol import Floor, moved, ratio
from fewstep.metrics.straightness import endpoint_rmse
from fewstep.model import Model, ModelConfig
from fewstep.randomness import keys_of
from fewstep.shards import Shards
from stages.artifacts.scratch import state
from stages.evaluation import by_features
from stages.evaluation.by_features import Features
from stages.evaluation.entries import Entry, KeptEntries, Result
from stages.evaluation.listed import entries_of, nfe_of, sampled_entries
from stages.evaluation.macs import macs_of
from stages.evaluation.refined import models_in, refined_entries
from stages.evaluation.yardstick import Constants, Protocol, Yardstick, measure_constants
from stages.figures.sample_grid import samples_shown
from stages.run.job import Job
from stages.sampling.open_model import grid_of_nfe, open_model, open_sampler, turns_of
from stages.settings.fields import Precision, fact_of_precision
from stages.settings.refined import RefinedSettings
from stages.settings.samplers import SamplerSettings
from stages.workers.spread import spread

STRAIGHTNESS_NOISES = 256
DOUBLINGS = 4  # of the fine run's NFE, before it counts as one that does not converge


@dataclass(frozen=True)
class Evaluation:
    """All that was measured, in the order of the models."""

    rows: list[dict[str, Any]]
    """One for each entry: its name, what was sampled and the scores."""
    sample_grids: list[Tensor]
    """Samples of the same noises, one grid an entry."""
    texts: list[str]
    """What these are conditioned on, for people; [] if nobody wrote it down."""
    teacher: str
    """The name of the entry that others are compared with: the finest run of the reference."""
    fine_runs: list[str]
    """What is known of how well the fine runs converged, a sentence each."""
    floor: Floor
    """By the first net."""
    backends: dict[str, str]
    """Of each net, by name."""
    features: dict[str, str]
    """What decides the numbers by each network that the user asked for, by name."""
    real: Tensor
    """Some of the training data, for the sample grids."""


@dataclass(frozen=True)
class FineRun:
    """How the model that others are compared with is run until it converges."""

    model: str
    solver: str
    nfe: int
    """Of the first run; each further one doubles it."""


@dataclass
class Measured:
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
        """Measure those that were not measured before, here or by an earlier evaluation."""
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
        for entry, result in spread(measure, missing, start_worker=start_worker, facts=shared):
            self.kept.write(entry, result)
            self.results[entry] = result.without_ends()
            self.job.progress.advance(fd_clf=result.scores[0].fd_clf)


def evaluate(
    job: Job,
    protocol: Protocol,
    fine: FineRun,
    *,
    nfe: tuple[int, ...],
    samplers: Mapping[str, SamplerSettings],
    features: Features,
    refined: Mapping[str, RefinedSettings],
    precision: Precision,
    version: int,
) -> Evaluation:
    """Measure every entry, the kept ones for free, and return the rows.

    Args:
        job: Of the evaluate stage.
        protocol: How many samples, of which noise.
        fine: The run that gives the truth, and to which distances are compared.
        nfe: NFE at which models trained at all times are sampled with equal steps.
        samplers: By name, which models are sampled with other steps than a solver's.
        features: By name, networks that the user asked for, in whose features samples are compared, too.
        refined: By name, which models are sampled with a refiner beside them.
        precision: The type in which networks of models compute.
        version: Of the code that measures; entries that another version measured are not used.
    """
    folders = {
        name.removeprefix("model "): path for name, path in job.inputs.items() if name.startswith("model ")
    }
    entries: list[Entry] = []
    configs: dict[str, ModelConfig] = {}
    for name, model in models_in(folders, job.progress):
        entries += entries_of(name, model, nfe, job)
        entries += sampled_entries(name, model, samplers, model_digest(folders[name]))
        entries += refined_entries(name, model, refined, folders)
        configs[name] = model.config
        del model  # before the next is read
    teacher = open_model(folders[fine.model])
    nets = load_nets(job.inputs["nets"])
    train, held_out = (Shards(job.inputs["data"] / split) for split in ("train", "held_out"))
    data = [train.digest, held_out.digest, *(net.digest for net in nets.values())]
    asked = by_features.protocols(features, nets[FIRST].shape, pixels=nets[FIRST].pixels)
    facts = (vars(protocol), data, model_digest(folders[fine.model]), version, *([asked] if asked else []))
    kept = KeptEntries(state() / "entries", *facts, *fact_of_precision(precision).items())
    measured = Measured(job, protocol, folders, precision, kept, {}, features)
    with ThreadPoolExecutor(max_workers=1) as threads:  # a second core is free until the workers start
        own = threads.map(partial(facts_of, seed=job.seed), (folders[name] for name in configs))
        fine_runs = converge(measured, teacher, fine, entries)
    common = dict(zip(configs, own, strict=True))
    finest = [entry for entry in measured.results if entry.kind == "fine"]
    shown = sorted(finest, key=lambda entry: (entry.guidance, entry.nfe)) + entries
    floor = measured.constants.floors[0]
    same_noise = {name for name, config in configs.items() if config.noise == teacher.config.noise}
    truths = {guidance: entry for guidance, (entry, _) in fine_runs.items()}
    rmse = off_truths(kept, [entry for entry in entries if entry.model in same_noise], truths)
    shown_first = samples_shown(teacher.config.shape)
    real = train.some(shown_first, seed=job.seed)["data"]
    rows = [
        row(
            entry,
            measured.results,
            fine_runs[entry.guidance][0],
            nets,
            measured.constants.floors[0],
            job.seed,
        )
        | common[entry.model]
        | ({"map_preserving": False} if entry.sampler else {})
        | {"endpoint_rmse": rmse.get(entry), "student": is_student(entry, configs[entry.model])}
        for entry in shown
    ]
    return Evaluation(
        rows,
        [measured.results[entry].samples for entry in shown],
        teacher.conditions.texts("evaluate", keys_of(job.seed, 0, shown_first)),
        teacher=fine_runs[1.0][0].name,
        fine_runs=[told for _, told in fine_runs.values()],
        floor=floor,
        backends={name: net.backend for name, net in nets.items()},
        features=asked,
        real=codec.seen(real, codec.of_prepared(job.inputs["data"])),
    )


def converge(
    measured: Measured, teacher: Model, fine: FineRun, entries: Sequence[Entry]
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
            far = "has converged" if by.little else "HAS NOT CONVERGED, ratios to it flatter"
            told = (
                f"{last.name} {far}: its distance moved by {by.share:.1%}, {by.errors:.2g} of its error, "
                "when the steps were doubled"
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
    return Entry(fine.model, "fine", grid, nfe_of(grid, teacher), digest, guidance)


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


def measure(entry: Entry) -> Result:
    """Measure one entry, in a worker process."""
    folders, precision = WORKER["folders"], WORKER["precision"]
    model = open_sampler(folders[entry.model], precision)
    flow = as_flow(model, guidance=entry.grid.guidance)
    refiner = open_sampler(folders[entry.refinement.refiner], precision) if entry.refinement else None
    return WORKER["yardstick"].measure(entry, model, flow, refiner)


def is_student(entry: Entry, config: ModelConfig) -> bool:
    """Return whether an entry is of a model that was trained for few calls: on a grid, or as a flow map."""
    return entry.kind == "own" or config.velocity_until == "any"


def off_truths(
    kept: KeptEntries, entries: Sequence[Entry], truths: Mapping[float, Entry]
) -> dict[Entry, float]:
    """Return how far entries end from the truth for the same noises, as the root of the mean square.

    Args:
        kept: Where these noises ended.
        entries: Of models whose noise is the truth's.
        truths: By guidance, the fine run that is the truth.
    """
    ends = {guidance: kept.ends(entry) for guidance, entry in truths.items()}
    return {entry: endpoint_rmse(kept.ends(entry), ends[entry.guidance]) for entry in entries}


def facts_of(folder: Path, seed: int) -> dict[str, Any]:
    """Return what rows tell of the model in a folder, on whatever grid it is sampled."""
    model = open_model(folder)
    return {
        "straightness": straightness(model, seed),
        "macs": macs_of(model),
        "parameters": sum(p.numel() for p in model.parameters()),
        "map_preserving": model.config.map_preserving,
    }


def straightness(model: Model, seed: int) -> float | None:
    """Return S of a model with a velocity at all times; a student knows none between its timesteps."""
    if model.config.trained_times != "all" or model.config.velocity_until != "now":
        return None
    return turns_of(as_flow(model), model, noises=STRAIGHTNESS_NOISES, seed=seed).straightness


def solver_of(entry: Entry) -> str:
    """Return what took the steps of an entry, in a word or two."""
    if entry.refinement:
        return f"heun_pc, {entry.refinement.refiner}"
    return entry.sampler.name if entry.sampler else entry.grid.solver


def row(
    entry: Entry,
    results: dict[Entry, Result],
    reference: Entry,
    nets: dict[str, FeatureNet],
    floor: Floor,
    seed: int,
) -> dict[str, Any]:
    """Return one row of metrics.json."""
    result = results[entry]
    scores, times = result.scores[0], ratio(result.scores, results[reference].scores)
    return {
        "name": entry.name,
        "model": entry.model,
        "grid": entry.kind,
        "times": list(entry.grid.times),
        "solver": solver_of(entry),
        "guidance": entry.guidance,
        "nfe": entry.nfe,
        "samples": scores.blocks * scores.samples_per_block,
        "blocks": scores.blocks,
        "seed": seed,
        "backends": {name: net.backend for name, net in nets.items()},
        "teacher": reference.name,
        "fd_over_teacher": times.mean,
        "fd_over_teacher_se": times.error,
        "fd_over_teacher_spread": times.spread,
        "fd_over_teacher_by_net": dict(zip(nets, times.by_net, strict=True)),
        "fd_by_net": dict(zip(nets, (by_net.fd_clf for by_net in result.scores), strict=True)),
        "fd_clf": scores.fd_clf,
        "fd_clf_se": scores.fd_clf_se,
        "fd_block_mean": scores.fd_block_mean,
        "fd_block_mean_se": scores.fd_block_mean_se,
        "floor": floor.fd_clf,
        "floor_samples": floor.samples,
        "fd_at_floor_samples": scores.fd_at_floor_n,
        "kid_clf": scores.kid_clf,
        "kid_clf_se": scores.kid_clf_se,
        "kid_floor": floor.kid_clf,
        **result.more,
        **({"features": result.features} if result.features else {}),
    }
