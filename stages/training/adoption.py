"""A model of another library in the chain: what its folder and the settings say of it, and the check."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fewstep import declaration
from fewstep.conditions import shapes_of
from fewstep.foreign.assemble import assemble, config_of
from fewstep.foreign.found import DECLARATION
from fewstep.shards import Shards
from stages.process.device import device

if TYPE_CHECKING:
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
    there = shapes_of(job.manifests["data"]["facts"])
    described = config_of(found, shape, said, classes=config.classes, conditions=there)
    model = assemble(replace(described, guidance_channels=config.guidance_channels), found).to(device())
    samples = Shards(job.inputs["data"] / "held_out").some(config.check_samples, seed=job.seed)
    samples = {name: each.to(device()) for name, each in samples.items()}
    data, conditions = samples["data"], declaration.conditions_of(model.config, samples)
    verdict = declaration.check(model, data, conditions, seed=job.seed)
    job.progress.note(verdict.told())
    for told in (*verdict.problems, *verdict.notes):
        job.progress.note(told)
    declared = {name: getattr(model.config, name) for name in DECLARATION}
    job.facts.update(declared=declared, ratio=verdict.ratio, calls=verdict.calls)
    job.facts.update(problems=list(verdict.problems), notes=[*found.notes, *verdict.notes])
    return model.cpu()
