"""The evaluation as a whole: which entries there are, and the rows they become."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from fewstep import codec
from fewstep.flow import as_flow
from fewstep.metrics.features import FeatureNet
from fewstep.metrics.nets import load_nets
from fewstep.metrics.protocol import Floor, ratio
from fewstep.metrics.straightness import Turns, endpoint_rmse
from fewstep.model import Model, ModelConfig
from fewstep.randomness import keys_of
from fewstep.shards import Shards
from stages.evaluation import kinds
from stages.evaluation.entries import Entry, KeptEntries, Result
from stages.evaluation.macs import macs_of
from stages.evaluation.measuring import Wanted, converge
from stages.figures.sample_grid import samples_shown
from stages.sampling.open_model import open_model, straightness_of

STRAIGHTNESS_NOISES = 256


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


def evaluate(wanted: Wanted) -> Evaluation:
    """Measure every entry, the kept ones for free, and return the rows."""
    job, folders, fine = wanted.job, wanted.folders, wanted.fine
    entries, configs = wanted.entries()
    measured = wanted.measurements()
    teacher = open_model(folders[fine.model])
    nets = load_nets(job.inputs["nets"])
    with ThreadPoolExecutor(max_workers=1) as threads:  # a second core is free until the workers start
        own = threads.map(partial(facts_of, seed=job.seed), (folders[name] for name in configs))
        try:
            fine_runs = converge(measured, teacher, fine, entries)
        except BaseException:
            threads.shutdown(cancel_futures=True)
            raise
    common = dict(zip(configs, own, strict=True))
    finest = [entry for entry in measured.results if entry.kind == kinds.FINE]
    shown = sorted(finest, key=lambda entry: (entry.guidance, entry.nfe)) + entries
    floor = measured.constants.floors[0]
    same_noise = {name for name, config in configs.items() if config.noise == teacher.config.noise}
    truths = {guidance: entry for guidance, (entry, _) in fine_runs.items()}
    rmse = off_truths(measured.kept, [entry for entry in entries if entry.model in same_noise], truths)
    shown_first = samples_shown(teacher.config.shape)
    real = Shards(job.inputs["data"] / "train").some(shown_first, seed=job.seed)["data"]
    rows = [
        row(
            entry,
            measured.results,
            fine_runs[entry.guidance][0],
            nets,
            floor,
            job.seed,
        )
        | common[entry.model]
        | ({"map_preserving": False} if entry.sampler else {})
        | {"macs_in_all": macs_in_all(entry, common[entry.model]["macs"], folders)}
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
        features=wanted.networks(nets),
        real=codec.seen(real, codec.of_prepared(job.inputs["data"])),
    )


def macs_in_all(entry: Entry, macs: int, folders: Mapping[str, Path]) -> int:
    """Return the multiply-accumulates of a sample: of the model's calls, `macs` each, and of a refiner's."""
    if entry.refinement is None:
        return entry.nfe * macs
    refiner = open_model(folders[entry.refinement.refiner])
    return entry.nfe * macs + entry.refinement.blocks.refinements * macs_of(refiner)


def is_student(entry: Entry, config: ModelConfig) -> bool:
    """Return whether an entry is of a model that was trained for few calls: on a grid, or as a flow map."""
    return entry.kind == kinds.OWN or config.velocity_until == "any"


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
    turns = turns_of(model, seed)
    return {
        "straightness": turns.straightness if turns else None,
        "first_order": turns.first_order if turns else None,
        "macs": macs_of(model),
        "parameters": sum(p.numel() for p in model.parameters()),
        "map_preserving": model.config.map_preserving,
    }


def turns_of(model: Model, seed: int) -> Turns | None:
    """Return S and F of a model with a velocity at all times; a student knows none between its timesteps."""
    if model.config.trained_times != "all" or model.config.velocity_until != "now":
        return None
    return straightness_of(as_flow(model), model, noises=STRAIGHTNESS_NOISES, seed=seed)


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
        **({"guidance_given": entry.given} if entry.given else {}),
    }
