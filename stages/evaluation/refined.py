"""Models that make samples, and their entries with a refiner beside them."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from fewstep.checkpoint import load_config, model_digest
from fewstep.draws import draws_of
from fewstep.flow import ModelFlow, as_flow
from fewstep.grids import uniform
from fewstep.model import Model
from fewstep.progress import Progress
from fewstep.refining import Blocks, choose, grid_of
from fewstep.solvers import integrate
from stages.evaluation.entries import Entry, Refinement
from stages.evaluation.macs import macs_of
from stages.process.device import device
from stages.sampling.open_model import open_model
from stages.settings.refined import RefinedSettings

CHOSEN_BY = 128  # noises by which blocks are chosen
FINE_STEPS = 64  # of heun_pc, where they should end


def models_in(folders: Mapping[str, Path], progress: Progress) -> Iterator[tuple[str, Model]]:
    """Yield name and model of each of these folders that makes samples; a refiner alone makes none.

    None is held here, so that only those are in memory that the caller keeps.
    """
    for name, folder in folders.items():
        if load_config(folder).refines:
            progress.note(f"{name} is a refiner: evaluate.refined samples it beside its teacher")
        else:
            yield name, open_model(folder)


def refined_entries(
    name: str, model: Model, asked: Mapping[str, RefinedSettings], folders: Mapping[str, Path], seed: int
) -> Iterator[Entry]:
    """Yield the entries of one model beside the refiners that there are: equal steps, under the guidance of
    their training. `seed` is of the noise by which blocks are chosen for a budget.
    """
    for kind, settings in asked.items():
        if settings.model != name or settings.refiner not in folders:
            continue
        refiner = folders[settings.refiner]
        guidance, digest = load_config(refiner).baked_guidance, model_digest(refiner)
        flow, shown = as_flow(model, guidance=guidance), model.config.guidance_shown(guidance)
        chosen = [Blocks(*numbers) for numbers in settings.blocks]
        if settings.budget:
            beside = open_model(refiner)
            chosen = [affordable_best(model, flow, beside, budget, seed) for budget in settings.budget]
        for blocks in dict.fromkeys(chosen):
            yield Entry(
                name,
                f"{kind}-h{blocks.heun}p{blocks.pseudo}r{blocks.refined}",
                replace(grid_of(flow, blocks), solver="heun_pc", guidance=guidance),
                blocks.calls * flow.nfe_per_velocity,
                model_digest(folders[name]),
                shown,
                refinement=Refinement(settings.refiner, digest, blocks),
            )


def affordable_best(model: Model, flow: ModelFlow, refiner: Model, budget: float, seed: int) -> Blocks:
    """Return the blocks within a budget, in velocities of the flow, that end nearest to a fine run.

    What a call of the refiner costs, as a part of a velocity, is counted in multiply-accumulates, the same
    on any machine.
    """
    ratio = macs_of(refiner) / (macs_of(model) * flow.nfe_per_velocity)
    noises = range(CHOSEN_BY)
    ((noise, given),) = draws_of(model, "refined", seed, noises, batch=CHOSEN_BY, device=device())
    fine = uniform(FINE_STEPS, start=flow.t_start, end=flow.t_end, solver="heun_pc")
    conditions: dict[str, Any] = given
    with torch.no_grad():
        truth = integrate(flow, noise, fine, **given).x
        return choose(flow, refiner, noise, truth, budget=budget, ratio=ratio, **conditions)[0]
