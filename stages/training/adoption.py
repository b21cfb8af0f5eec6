"""A model of another library in the chain: what its folder and the settings say of it, and the check."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from fewstep import declaration
from fewstep.conditions import Table, shapes_of
from fewstep.foreign import text_encoders
from fewstep.foreign.assemble import assemble, config_of
from fewstep.foreign.found import DECLARATION
from fewstep.prompts import read_prompts
from fewstep.shards import Shards
from stages.process.device import device

if TYPE_CHECKING:
    from torch import Tensor

    from fewstep.foreign.found import Found
    from fewstep.model import Model
    from stages.run.job import Job


def take(config: Any, job: Job) -> Model:
    """Return the model of a folder after the check of its declaration, whose result goes to the job's facts.

    Args:
        config: Of the stage adopt.
        job: Its job.

    Raises:
        UserError: if the folder holds no such model, or it is not for the data.
    """
    found = config.format.build().look(job.inputs["folder"])
    for note in found.notes:
        job.progress.note(note)
    shape = tuple(job.manifests["data"]["facts"]["shape"])
    said = {name: value for name in DECLARATION if (value := getattr(config, name)) is not None}
    table = encoded(config, job, found, shape)
    there = shapes_of(job.manifests["data"]["facts"]) if table is None else table.shapes
    described = config_of(found, shape, said, classes=config.classes, conditions=there)
    described = replace(described, guidance_channels=config.guidance_channels)
    model = assemble(described, found, None if table is None else table.only(described.conditions)).to(
        device()
    )
    samples = Shards(job.inputs["data"] / "held_out").some(config.check_samples, seed=job.seed)
    samples = {name: each.to(device()) for name, each in samples.items()}
    if table is not None:
        samples |= without_prompt(model, len(samples["data"]))
        job.progress.note("the declaration is checked without a prompt: the data has none")
    data, conditions = samples["data"], declaration.conditions_of(model.config, samples)
    verdict = declaration.check(model, data, conditions, seed=job.seed)
    job.progress.note(verdict.told())
    for told in (*verdict.problems, *verdict.notes):
        job.progress.note(told)
    declared = {name: getattr(model.config, name) for name in DECLARATION}
    job.facts.update(declared=declared, ratio=verdict.ratio, calls=verdict.calls)
    job.facts.update(problems=list(verdict.problems), notes=[*found.notes, *verdict.notes])
    return model.cpu()


def encoded(config: Any, job: Job, found: Found, shape: tuple[int, ...]) -> Table | None:
    """Return the conditions that the folder's encoders make of prompts; None if there are no prompts.

    Args:
        config: Of the stage adopt.
        job: Its job.
        found: What lies in the folder.
        shape: Of a sample.

    Raises:
        UserError: if prompts or encoders can't be read, or the encoders are not those of the network.
    """
    if config.prompts is None:
        return None
    prompts = read_prompts(job.inputs["prompts"], config.prompts.column)
    folder = job.inputs["folder"]
    size = text_encoders.pixels(folder, (shape[-2], shape[-1]))
    pipeline = text_encoders.read(folder, size=size, tokens=config.prompts.tokens, device=device())
    wanted, negative = found.described.conditions, config.prompts.negative
    table = text_encoders.table_of(pipeline, prompts, wanted, negative=negative, progress=job.progress)
    job.facts["prompts"] = len(table)
    return table


def without_prompt(model: Model, count: int) -> dict[str, Tensor]:
    """Return the null values of a model's conditions, each (count, *shape)."""
    null = {name: torch.from_numpy(model.conditions.null(name)) for name in model.config.conditions}
    return {name: value.expand(count, *value.shape).to(device()) for name, value in null.items()}
