"""Samples of a model of another library, which stand in for data where there is none."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from fewstep.conditions import LABEL
from fewstep.data import Samples, check_samples
from fewstep.draws import draws_of
from fewstep.errors import UserError
from fewstep.flow import as_flow
from fewstep.shards import Column, write_shards
from fewstep.solvers import integrate
from stages.process.device import device
from stages.sampling.open_model import grid_of_nfe
from stages.training import adoption

if TYPE_CHECKING:
    from torch import Tensor

    from fewstep.flow import Flow
    from fewstep.foreign.found import Found
    from fewstep.grids import Grid
    from fewstep.model import Model
    from stages.preparing.source_settings import TeacherSettings
    from stages.run.job import Job

BATCHES = 8  # that a killed stage makes again at most


def samples_of(config: Any, job: Job) -> Samples:
    """Return samples of the model that prepare.teacher names, with their classes if it has any.

    Args:
        config: Of the stage prepare.
        job: Its job.

    Raises:
        UserError: if the folder holds no such model, the shape or the conditions of its samples are declared
            nowhere, or these are none that one can train on: then it is not what it is declared to be.
    """
    asked = config.teacher
    found = asked.format.options.look(job.inputs["folder"])
    shape = shape_of(asked, found)
    refuse_unknown_conditions(asked, found)
    model = adoption.model_of(asked, found, shape, {}, job.inputs, job.progress)
    latents = asked.latents or config.codec is not None
    flow = as_flow(model, guidance=asked.guidance)
    grid = grid_of_nfe(flow, asked.solver, asked.nfe)
    told = f"{asked.samples} samples of {asked.folder} by {asked.nfe} NFE of {asked.solver}"
    told += f" with guidance {asked.guidance:g}" if asked.guidance != 1 else ""
    job.facts["no_data"] = f"there is no data: {told} stand in for it, and distances are to these"
    pixels = len(shape) == 3 and not latents
    try:
        made = write_shards(
            job.scratch / "teacher",
            asked.samples,
            BATCHES * asked.batch,
            partial(make, model, flow, grid, batch=asked.batch, seed=job.seed, pixels=pixels),
            facts={"made": told, "seed": job.seed},
            progress=job.progress,
        )
        samples = Samples(data=Column(made, "data"), latents=len(shape) == 3 and latents)
        check_samples(samples, "what it makes")
    except UserError as error:
        raise UserError(
            f"prepare.teacher: {error}. Perhaps the network is not what is said of it: look at prediction, "
            "path, time, time_scale and latents"
        ) from error
    classes = model.config.classes
    label = Column(made, LABEL)[torch.arange(len(samples.data))] if classes else None
    return replace(
        samples,
        label=label,
        class_names=tuple(map(str, range(classes))),
        class_shares=model.config.class_shares,
        notes=(job.facts["no_data"],),
    )


def shape_of(asked: TeacherSettings, found: Found) -> tuple[int, ...]:
    """Return the shape of a sample.

    Raises:
        UserError: if it is declared nowhere, or the network has another.
    """
    described = found.described
    if asked.shape is not None:
        return asked.shape  # compared with the network's own where that is known
    if described.channels is None or described.side is None:
        raise UserError(
            "the folder does not say which shape the samples of its network have; set prepare.teacher.shape, "
            "such as [3, 32, 32]"
        )
    return (described.channels, *described.side)


def refuse_unknown_conditions(asked: TeacherSettings, found: Found) -> None:
    """Refuse a network that is conditioned on more than its classes, unless prompts say on what.

    Raises:
        UserError: naming its conditions.
    """
    described = found.described
    if described.beside or (described.conditions and asked.prompts is None):
        remedy = "" if described.beside else "set prepare.teacher.prompts to a file of texts, or "
        names = [*described.conditions, *(["images"] if described.beside else [])]
        raise UserError(
            f"the network is conditioned on {', '.join(names)}, and without data nobody says on which; "
            f"{remedy}take data"
        )


@torch.no_grad()
def make(
    model: Model, flow: Flow, grid: Grid, start: int, stop: int, *, batch: int, seed: int, pixels: bool
) -> dict[str, Tensor]:
    """Return the samples start <= i < stop, (n, *shape), and their classes, int64 (n,), if it has any.

    Args:
        model: What makes them.
        flow: Of the model, perhaps guided.
        grid: The steps.
        start: The number of the first.
        stop: The number after the last.
        batch: Samples in one network call.
        seed: Of their noise and classes.
        pixels: Whether they are images, which end in [-1, 1].

    Raises:
        UserError: if a state is not finite.
    """
    drawn = draws_of(model, "teacher's samples", seed, range(start, stop), batch=batch, device=device())
    samples, labels = [], []
    for noise, conditions in drawn:
        made = integrate(flow, noise, grid, **conditions).x.cpu()
        samples.append(made.clamp(-1, 1) if pixels else made)
        labels += [conditions[LABEL].cpu()] if LABEL in conditions else []
    return {"data": torch.cat(samples)} | ({LABEL: torch.cat(labels)} if labels else {})
