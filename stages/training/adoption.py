"""A model of another library in the chain: what its folder and the settings say of it, and the check."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from fewstep import declaration
from fewstep.conditions import shapes_of
from fewstep.foreign import text_encoders
from fewstep.foreign.assemble import assemble, config_of
from fewstep.foreign.found import DECLARATION
from fewstep.prompts import read_prompts
from fewstep.shards import Shards
from stages.process.device import device

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

    from fewstep.conditions import Shapes, Table
    from fewstep.foreign.found import Found
    from fewstep.model import Model
    from fewstep.progress import Progress
    from stages.run.job import Job
    from stages.settings.adopted import AdoptedSettings


def take(config: Any, job: Job) -> Model:
    """Return the model of a folder after the check of its declaration, whose result goes to the job's facts.

    Args:
        config: Of the stage adopt.
        job: Its job.

    Raises:
        UserError: if the folder holds no such model, or it is not for the data.
    """
    facts = job.manifests["data"]["facts"]
    shape, there = tuple(facts["shape"]), shapes_of(facts)
    found = config.format.options.look(job.inputs["folder"])
    model = model_of(config, found, shape, there, job.inputs, job.progress)
    if config.prompts is not None:
        assert model.conditions.table is not None, "prompts became one"
        job.facts["prompts"] = len(model.conditions.table)
    samples = Shards(job.inputs["data"] / "held_out").some(config.check_samples, seed=job.seed)
    samples = {name: each.to(device()) for name, each in samples.items()}
    if config.prompts is not None:
        samples |= without_prompt(model, len(samples["data"]))
        job.progress.note("the declaration is checked without a prompt: the data has none")
    if "no_data" in facts:
        job.progress.note("the declaration is checked on samples of a model, which show less than data")
    data, conditions = samples["data"], declaration.conditions_of(model.config, samples)
    verdict = declaration.check(model, data, conditions, seed=job.seed)
    job.progress.note(verdict.told())
    for told in (*verdict.problems, *verdict.notes):
        job.progress.note(told)
    declared = {name: getattr(model.config, name) for name in DECLARATION}
    job.facts.update(declared=declared, ratio=verdict.ratio, calls=verdict.calls)
    job.facts.update(problems=list(verdict.problems), notes=[*found.notes, *verdict.notes])
    return model.cpu()


def model_of(
    config: AdoptedSettings,
    found: Found,
    shape: tuple[int, ...],
    there: Shapes,
    inputs: Mapping[str, Path],
    progress: Progress,
) -> Model:
    """Return the model that was found in a folder, as it is declared to be, on the device.

    Args:
        config: What is declared.
        found: What lies in the folder.
        shape: Of the samples it is to make.
        there: The conditions of these, of which it takes what it can; those of prompts go before them.
        inputs: Where "folder" lies, and "prompts" if there are any.
        progress: Told of what was seen.

    Raises:
        UserError: if it holds no such model, or it is not for such samples.
    """
    for note in found.notes:
        progress.note(note)
    said = {name: value for name in DECLARATION if (value := getattr(config, name)) is not None}
    table = encoded(config, found, shape, inputs, progress)
    there = there if table is None else table.shapes
    described = config_of(found, shape, said, classes=config.classes, conditions=there)
    described = replace(
        described, guidance_channels=config.guidance_channels, noise=config.noise or described.noise
    )
    own = None if table is None else table.only(described.conditions)
    return assemble(described, found, own).to(device())


def encoded(
    config: AdoptedSettings,
    found: Found,
    shape: tuple[int, ...],
    inputs: Mapping[str, Path],
    progress: Progress,
) -> Table | None:
    """Return the conditions that the folder's encoders make of prompts; None if there are no prompts.

    Raises:
        UserError: if prompts or encoders can't be read, or the encoders are not those of the network.
    """
    if config.prompts is None:
        return None
    prompts = read_prompts(inputs["prompts"], config.prompts.column)
    folder = inputs["folder"]
    size = text_encoders.pixels(folder, (shape[-2], shape[-1]))
    pipeline = text_encoders.read(folder, size=size, tokens=config.prompts.tokens, device=device())
    wanted, negative = found.described.conditions, config.prompts.negative
    return text_encoders.table_of(pipeline, prompts, wanted, negative=negative, progress=progress)


def without_prompt(model: Model, count: int) -> dict[str, Tensor]:
    """Return the null values of a model's conditions, each (count, *shape)."""
    null = {name: torch.from_numpy(model.conditions.null(name)) for name in model.config.conditions}
    return {name: value.expand(count, *value.shape).to(device()) for name, value in null.items()}
