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


def models_in(folders: Mapping[str, Path], progress: Progress) -> dict[str, Model]:
    """Return the models in these folders, by name, that make samples; a refiner alone makes none."""
    opened = {name: open_model(folder) for name, folder in folders.items()}
    for name, model in opened.items():
        if model.config.refines:
            progress.note(f"{name} is a refiner: evaluate.refined samples it beside its teacher")
    return {name: model for name, model in opened.items() if not model.config.refines}


def refined_entries(
    name: str, model: Model, asked: Mapping[str, RefinedSettings], folders: Mapping[str, Path]
) -> Iterator[Entry]:
    """Yield the entries of one model beside refiners: equal steps, under the guidance of their training."""
    for kind, settings in asked.items():
        if settings.model != name:
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
