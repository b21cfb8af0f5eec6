"""Which entries an evaluation has of one model: its own grid, or equal steps, searched grids and samplers."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial

import torch

from fewstep import solvers
from fewstep.checkpoint import model_digest
from fewstep.errors import UserError
from fewstep.flow import as_flow
from fewstep.grids import Grid, uniform
from fewstep.model import Model
from fewstep.spacings import all_dividing, dividing
from stages.evaluation import kinds
from stages.evaluation.entries import Entry
from stages.run.job import Job
from stages.searching.grids_file import read_grids
from stages.settings.samplers import SamplerSettings


def entries_of(
    name: str,
    model: Model,
    equal_nfe: tuple[int, ...],
    job: Job,
    scales: tuple[float, ...] | None = None,
) -> list[Entry]:
    """Return the entries of one model: its own grid, or equal steps and what was searched.

    One that was trained for equal steps has the numbers of them that it knows. One that takes guidance as an
    input has them at each of `scales`; None are both ends of its range.
    """
    digest = model_digest(job.inputs[f"model {name}"])
    flow, shown = as_flow(model), model.config.guidance_shown
    equal = partial(uniform, start=flow.t_start, end=flow.t_end)

    def entry(kind: str, grid: Grid) -> Entry:
        return Entry(name, kind, grid, nfe_of(grid, model), digest, shown(grid.guidance))

    own, finest = model.config.grid, model.config.equal_steps
    equal_nfe = dividing(finest, equal_nfe)
    if finest is not None and not equal_nfe:
        raise UserError(f"{name} takes {all_dividing(finest)} equal steps; add one of these to evaluate.nfe")
    kind, plain = (kinds.EQUAL, [*map(equal, equal_nfe)]) if own is None else (kinds.OWN, [own])
    if scales := scales or model.config.guidance_range:
        plain = [replace(grid, guidance=scale) for scale in scales for grid in plain]
    entries = [entry(kind, grid) for grid in plain]
    if f"search {name}" in job.inputs:
        found = read_grids(job.inputs[f"search {name}"])
        for grid in found.grids.values():
            grid.must_suit(model=digest)
        kind = kinds.searched(found.method["name"])
        entries += [
            entry(kind, grid)
            for steps, grid in sorted(found.grids.items())
            if (grid.guidance, grid.solver) != (1, "euler")
            or steps not in equal_nfe
            or not same_times(grid, equal(steps))
        ]
    return entries


def sampled_entries(
    name: str, model: Model, samplers: Mapping[str, SamplerSettings], digest: str
) -> Iterator[Entry]:
    """Yield the entries of one model that samplers make: equal steps, or shorter last ones."""
    flow = as_flow(model)
    for kind, asked in samplers.items():
        for nfe in asked.nfe if asked.model == name else ():
            grid = uniform(nfe, start=flow.t_start, end=flow.t_end)
            if asked.last_step:
                if not flow.t_start < 1 - asked.last_step <= flow.t_end:
                    raise UserError(
                        f"evaluate.samplers.{kind}.last_step {asked.last_step:g} does not fit {name}: it "
                        f"must be from {1 - flow.t_end:g} up to, but not, {1 - flow.t_start:g}"
                    )
                inner = torch.linspace(flow.t_start, 1 - asked.last_step, nfe, dtype=torch.float64)
                grid = Grid((*inner.tolist(), 1.0))
            yield Entry(name, kind, grid, nfe, digest, model.config.baked_guidance, asked.sampler)


def nfe_of(grid: Grid, model: Model) -> int:
    """Return the NFE of a sample; guidance doubles it, but of a network that takes it as an input."""
    velocities = solvers.velocities(grid.solver, grid.steps)
    return velocities * model.config.calls_per_velocity(grid.guidance)


def same_times(a: Grid, b: Grid) -> bool:
    """Return whether two grids visit the same times to 1e-9."""
    return len(a.times) == len(b.times) and all(
        abs(x - y) < 1e-9 for x, y in zip(a.times, b.times, strict=True)
    )
