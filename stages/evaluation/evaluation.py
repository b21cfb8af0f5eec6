"""The evaluation as a whole: which entries there are, and the rows they become."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from fewstep import solvers
from fewstep.checkpoint import model_digest
from fewstep.flow import Flow, as_flow
from fewstep.grids import Grid, uniform
from fewstep.metrics.protocol import Floor, ratio
from fewstep.model import Model
from fewstep.shards import Shards
from stages.artifacts.scratch import state
from stages.evaluation.entries import Entry, KeptEntries, Protocol, Result, Yardstick
from stages.figures.sample_grid import spread_over
from stages.run.job import Job
from stages.sampling.open_model import grid_of_nfe, open_model, straightness_of
from stages.searching.grids_file import read_grids
from stages.workers.spread import spread

STRAIGHTNESS_NOISES = 256


@dataclass(frozen=True)
class Evaluation:
    """All that was measured, in the order of the models."""

    rows: list[dict[str, Any]]
    """One for each entry: its name, what was sampled and the scores."""
    entries: list[Entry]
    sample_grids: list[Tensor]
    """Samples of the same noises, one grid an entry."""
    teacher: str
    """The name of the entry that others are compared with: the pretrained model at the highest NFE."""
    floor: Floor
    backend: str
    real: Tensor
    """Some of the training data, for the sample grids."""


@dataclass(frozen=True)
class FineRun:
    """The run of the pretrained model whose ends are the truth."""

    solver: str
    nfe: int


def evaluate(
    job: Job, protocol: Protocol, fine: FineRun, *, nfe: tuple[int, ...], version: int
) -> Evaluation:
    """Measure every entry, the kept ones for free, and return the rows.

    Args:
        job: Of the evaluate stage.
        protocol: How many samples, of which noise.
        fine: The run that gives the truth.
        nfe: NFE at which models trained at all times are sampled with equal steps.
        version: Of the code that measures; entries that another version measured are not used.
    """
    folders = {
        name.removeprefix("model "): path for name, path in job.inputs.items() if name.startswith("model ")
    }
    models = {name: open_model(folder) for name, folder in folders.items()}
    entries = [entry for name, model in models.items() for entry in entries_of(name, model, nfe, job)]
    yardstick = Yardstick(job.inputs["data"], protocol)
    data = [Shards(job.inputs["data"] / split).digest for split in ("train", "held_out")]
    nets = [yardstick.net.digest, yardstick.other.digest]
    facts = (vars(protocol), nets, data, model_digest(folders["pretrain"]), version)
    kept = KeptEntries(state() / "entries", *facts, fine.solver, fine.nfe)
    results = {entry: result for entry in entries if (result := kept.read(entry))}
    missing = sorted((entry for entry in entries if entry not in results), key=lambda entry: -entry.nfe)
    job.progress.start("entries", len(entries), done=len(results), unit="entry")
    with ThreadPoolExecutor() as threads:  # a second core is free until the workers start
        straight = threads.map(partial(straightness, seed=job.seed), models.values())
        truth = ends_of(fine, models["pretrain"], protocol) if missing else None
    if missing:
        shared = (job.inputs["data"], protocol, folders, truth)
        for entry, result in spread(measure, missing, start_worker=start_worker, facts=shared):
            kept.write(entry, result)
            results[entry] = result
            job.progress.advance(fd_clf=result.scores.fd_clf)
    best = max((c for c in entries if (c.model, c.kind) == ("pretrain", "uniform")), key=lambda c: c.nfe)
    common = {
        name: {
            "straightness": found,
            "parameters": sum(p.numel() for p in model.parameters()),
            "map_preserving": model.config.map_preserving,
        }
        for (name, model), found in zip(models.items(), straight, strict=True)
    }
    rows = [row(entry, results[entry], results[best], yardstick) | common[entry.model] for entry in entries]
    sample_grids = [results[entry].samples for entry in entries]
    real = spread_over(yardstick.train)
    return Evaluation(rows, entries, sample_grids, best.name, yardstick.floor, yardstick.net.backend, real)


WORKER: dict[str, Any] = {}  # what a worker process keeps from one entry to the next


def start_worker(prepared: Path, protocol: Protocol, folders: dict[str, Path], truth: Tensor) -> None:
    """Load the data and nets that every entry is compared with."""
    WORKER.update(yardstick=Yardstick(prepared, protocol), folders=folders, truth=truth)


def measure(entry: Entry) -> Result:
    """Measure one entry, in a worker process."""
    model = open_model(WORKER["folders"][entry.model])
    flow = as_flow(model, guidance=entry.grid.guidance)
    return WORKER["yardstick"].measure(entry, model, flow, WORKER["truth"])


def entries_of(name: str, model: Model, equal_nfe: tuple[int, ...], job: Job) -> list[Entry]:
    """Return the entries of one model: its own grid, or equal steps and what was searched."""
    digest = model_digest(job.inputs[f"model {name}"])
    start = as_flow(model).t_start
    if (own := model.config.grid) is not None:
        entries = [Entry(name, "own", own, nfe_of(own), digest)]
    else:
        entries = [Entry(name, "uniform", uniform(nfe, start=start), nfe, digest) for nfe in equal_nfe]
    if f"search {name}" in job.inputs:
        found = read_grids(job.inputs[f"search {name}"])
        for grid in found.grids.values():
            grid.must_suit(model=digest)
        kind = found.method["name"].replace("uniform", "searched-uniform")  # not the entries above
        entries += [
            Entry(name, kind, grid, nfe_of(grid), digest)
            for steps, grid in sorted(found.grids.items())
            if (grid.guidance, grid.solver) != (1, "euler")
            or steps not in equal_nfe
            or not same_times(grid, uniform(steps, start=start))
        ]
    return entries


def nfe_of(grid: Grid) -> int:
    """Return the NFE of a sample; guidance doubles it."""
    return grid.steps * solvers.get(grid.solver).velocities_per_step * (1 if grid.guidance == 1 else 2)


def same_times(a: Grid, b: Grid) -> bool:
    """Return whether two grids visit the same times to 1e-9."""
    return len(a.times) == len(b.times) and all(
        abs(x - y) < 1e-9 for x, y in zip(a.times, b.times, strict=True)
    )


def ends_of(fine: FineRun, teacher: Model, protocol: Protocol) -> Tensor:
    """Return where the pretrained model takes the noise of block 0 at high NFE, (samples, *shape)."""
    flow: Flow = as_flow(teacher)
    grid = grid_of_nfe(flow, fine.solver, fine.nfe)
    return protocol.sample(0, teacher, flow, grid)


def straightness(model: Model, seed: int) -> float | None:
    """Return S of a model trained at all times; a student knows no velocity between its timesteps."""
    if model.config.trained_times != "all":
        return None
    return straightness_of(as_flow(model), model, noises=STRAIGHTNESS_NOISES, seed=seed)


def row(entry: Entry, result: Result, teacher: Result, yardstick: Yardstick) -> dict[str, Any]:
    """Return one row of metrics.json."""
    scores, floor = result.scores, yardstick.floor
    times, error = ratio(scores, teacher.scores)
    other, its_teacher = result.more["fd_monitor"], teacher.more["fd_monitor"]
    return {
        "name": entry.name,
        "model": entry.model,
        "grid": entry.kind,
        "times": list(entry.grid.times),
        "solver": entry.grid.solver,
        "guidance": entry.grid.guidance,
        "nfe": entry.nfe,
        "samples": scores.blocks * scores.samples_per_block,
        "blocks": scores.blocks,
        "seed": yardstick.protocol.seed,
        "backend": yardstick.net.backend,
        "fd_clf": scores.fd_clf,
        "fd_clf_se": scores.fd_clf_se,
        "fd_over_teacher": times,
        "fd_over_teacher_se": error,
        "fd_block_mean": scores.fd_block_mean,
        "fd_block_mean_se": scores.fd_block_mean_se,
        "floor": floor.fd_clf,
        "floor_samples": floor.samples,
        "fd_at_floor_samples": scores.fd_at_floor_n,
        "kid_clf": scores.kid_clf,
        "kid_clf_se": scores.kid_clf_se,
        "kid_floor": floor.kid_clf,
        "fd_monitor_over_teacher": other / its_teacher if other is not None and its_teacher else None,
    } | result.more
