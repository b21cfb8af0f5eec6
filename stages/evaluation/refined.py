"""Models that make samples, and their entries with a refiner beside them."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from fewstep.checkpoint import load_config, model_digest
from fewstep.flow import as_flow
from fewstep.model import Model
from fewstep.progress import Progress
from fewstep.refining import Blocks, grid_of
from stages.evaluation.entries import Entry, Refinement
from stages.sampling.open_model import open_model
from stages.settings.refined import RefinedSettings


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
    name: str, model: Model, asked: Mapping[str, RefinedSettings], folders: Mapping[str, Path]
) -> Iterator[Entry]:
    """Yield the entries of one model beside the refiners that there are: equal steps, under the guidance of
    their training.
    """
    for kind, settings in asked.items():
        if settings.model != name or settings.refiner not in folders:
            continue
        refiner = folders[settings.refiner]
        guidance, digest = load_config(refiner).baked_guidance, model_digest(refiner)
        flow, shown = as_flow(model, guidance=guidance), model.config.guidance_shown(guidance)
        for numbers in settings.blocks:
            blocks = Blocks(*numbers)
            yield Entry(
                name,
                f"{kind}-h{blocks.heun}p{blocks.pseudo}r{blocks.refined}",
                replace(grid_of(flow, blocks), solver="heun_pc", guidance=guidance),
                blocks.calls * flow.nfe_per_velocity,
                model_digest(folders[name]),
                shown,
                refinement=Refinement(settings.refiner, digest, blocks),
            )
