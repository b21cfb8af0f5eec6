"""The evaluation as a whole: which cells there are, and the rows they become."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from fewstep import solvers
from fewstep.checkpoint import model_digest
from fewstep.flow import Flow, as_flow
from fewstep.grids import Grid, uniform
from fewstep.metrics.protocol import Floor, ratio
from fewstep.model import Model
from fewstep.shards import Shards
from stages.artifacts.scratch import state
from stages.evaluation.entries import Cell, Kept, Protocol, Result, Yardstick
from stages.figures.sample_grid import spread_over
from stages.process.device import grid_of_calls, open_model, straightness_of
from stages.run.runner import Job
from stages.searching.grids_file import read_grids
from stages.workers.spread import spread

if TYPE_CHECKING:
    from stages.evaluate import Config

STRAIGHTNESS_NOISES = 256


@dataclass(frozen=True)
class Evaluation:
    """All that was measured, in the order of the models."""

    rows: list[dict[str, Any]]
    """One for each cell: its name, what was sampled and the scores."""
    cells: list[Cell]
    sheets: list[Tensor]
    """Samples of the same noises, one sheet a cell."""
    teacher: str
    """The name of the cell that others are compared with: the pretrained model at the most calls."""
    floor: Floor
    backend: str
    real: Tensor
    """Some of the training data, for the sheets."""


def evaluate(config: "Config", job: Job, version: int) -> Evaluation:
    """Measure every cell, the kept ones for free, and return the rows."""
    protocol = Protocol(config.blocks, config.samples, config.batch, job.seed)
    folders = {
        name.removeprefix("model "): path for name, path in job.inputs.items() if name.startswith("model ")
    }
    models = {name: open_model(folder) for name, folder in folders.items()}
    cells = [cell for name, model in models.items() for cell in cells_of(name, model, config, job)]
    yardstick = Yardstick(job.inputs["data"], protocol)
    data = [Shards(job.inputs["data"] / split).digest for split in ("train", "held_out")]
    nets = [yardstick.net.digest, yardstick.other.digest]
    facts = (vars(protocol), nets, data, model_digest(folders["pretrain"]), version)
    kept = Kept(state() / "cells", *facts, config.reference_solver, config.reference_calls)
    results = {cell: result for cell in cells if (result := kept.read(cell))}
    missing = sorted((cell for cell in cells if cell not in results), key=lambda cell: -cell.calls)
    job.progress.start("cells", len(cells), done=len(results), unit="cell")
    if missing:
        shared = (job.inputs["data"], protocol, folders, fine_run(models["pretrain"], config, protocol))
        for cell, result in spread(measure, missing, prepare=prepare_worker, facts=shared):
            kept.write(cell, result)
            results[cell] = result
            job.progress.advance(fd_clf=result.scores.fd_clf)
    best = max((c for c in cells if (c.model, c.kind) == ("pretrain", "uniform")), key=lambda c: c.calls)
    common = {
        name: {
            "straightness": straightness(model, job.seed),
            "parameters": sum(p.numel() for p in model.parameters()),
            "map_preserving": model.config.map_preserving,
        }
        for name, model in models.items()
    }
    rows = [row(cell, results[cell], results[best], yardstick) | common[cell.model] for cell in cells]
    sheets = [results[cell].sheet for cell in cells]
    real = spread_over(yardstick.train)
    return Evaluation(rows, cells, sheets, best.name, yardstick.floor, yardstick.net.backend, real)


WORKER: dict[str, Any] = {}  # what a worker process keeps from one cell to the next


def prepare_worker(prepared: Path, protocol: Protocol, folders: dict[str, Path], truth: Tensor) -> None:
    """Load what every cell is held against."""
    WORKER.update(yardstick=Yardstick(prepared, protocol), folders=folders, truth=truth)


def measure(cell: Cell) -> Result:
    """Measure one cell, in a worker process."""
    model = open_model(WORKER["folders"][cell.model])
    flow = as_flow(model, guidance=cell.grid.guidance)
    return WORKER["yardstick"].measure(cell, model, flow, WORKER["truth"])


def cells_of(name: str, model: Model, config: "Config", job: Job) -> list[Cell]:
    """Return the cells of one model: its own grid, or equal steps and what was searched."""
    digest = model_digest(job.inputs[f"model {name}"])
    start = as_flow(model).t_start
    if (own := model.config.grid) is not None:
        cells = [Cell(name, "own", own, calls_of(own), digest)]
    else:
        cells = [Cell(name, "uniform", uniform(calls, start=start), calls, digest) for calls in config.calls]
    if f"search {name}" in job.inputs:
        found = read_grids(job.inputs[f"search {name}"])
        for grid in found.grids.values():
            grid.must_suit(model=digest)
        kind = found.method["name"].replace("uniform", "searched-uniform")  # not the cells above
        cells += [
            Cell(name, kind, grid, calls_of(grid), digest)
            for steps, grid in sorted(found.grids.items())
            if (grid.guidance, grid.solver) != (1, "euler")
            or steps not in config.calls
            or not same_times(grid, uniform(steps, start=start))
        ]
    return cells


def calls_of(grid: Grid) -> int:
    """Return the network calls a sample takes; guidance doubles them."""
    return grid.steps * solvers.get(grid.solver).velocities_per_step * (1 if grid.guidance == 1 else 2)


def same_times(a: Grid, b: Grid) -> bool:
    """Return whether two grids visit the same times to 1e-9."""
    return len(a.times) == len(b.times) and all(
        abs(x - y) < 1e-9 for x, y in zip(a.times, b.times, strict=True)
    )


def fine_run(teacher: Model, config: "Config", protocol: Protocol) -> Tensor:
    """Return where the pretrained model takes the noise of block 0 in many calls, (samples, *shape)."""
    flow: Flow = as_flow(teacher)
    grid = grid_of_calls(flow, config.reference_solver, config.reference_calls)
    return protocol.sample(0, teacher, flow, grid)


def straightness(model: Model, seed: int) -> float | None:
    """Return S of a model trained at all times; a student knows no velocity between its knots."""
    if model.config.trained_times != "all":
        return None
    return straightness_of(as_flow(model), model, noises=STRAIGHTNESS_NOISES, seed=seed)


def row(cell: Cell, result: Result, teacher: Result, yardstick: Yardstick) -> dict[str, Any]:
    """Return one row of metrics.json."""
    scores, floor = result.scores, yardstick.floor
    times, error = ratio(scores, teacher.scores)
    other, its_teacher = result.more["fd_monitor"], teacher.more["fd_monitor"]
    return {
        "name": cell.name,
        "model": cell.model,
        "grid": cell.kind,
        "times": list(cell.grid.times),
        "solver": cell.grid.solver,
        "guidance": cell.grid.guidance,
        "calls": cell.calls,
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
