"""Pipeline: a whole pipeline of diffusers, with the student for its network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from fewstep.exports import Export
from fewstep.lazy import lazy_imports

if TYPE_CHECKING:
    from torch import Tensor

    from fewstep.exporting.sampler import ExportedSampler

with lazy_imports():
    from fewstep.exporting import scheduled, whole_pipeline

CALL = """\
import json

import torch
from diffusers import DiffusionPipeline

pipe = DiffusionPipeline.from_pretrained("{folder}", dtype=torch.float32)
with open("{folder}/sampling.json") as file:
    sigmas = {sigmas}
images = pipe(
    "a prompt", sigmas=sigmas, num_inference_steps={steps}, guidance_scale={guidance:g}
).images
"""


@dataclass(frozen=True, kw_only=True)
class Pipeline(Export):
    """Of students of a network that was adopted from the folder of a pipeline."""

    file: ClassVar[str] = "pipeline"
    title: ClassVar[str] = "A pipeline of diffusers"
    libraries: ClassVar[tuple[str, ...]] = ("diffusers", "transformers")
    extra: ClassVar[str] = "foreign"
    by_schedulers: ClassVar[bool] = True

    folder: str
    """The folder of the pipeline, of which all parts but the network and the scheduler are copied."""

    def paths(self) -> dict[str, str]:
        """See Export.paths."""
        return {"folder": self.folder}

    def write(self, sampler: ExportedSampler, file: Path, source: Path) -> None:
        """See Export.write."""
        whole_pipeline.must_fit(Path(self.folder), sampler)
        whole_pipeline.write(sampler, Path(self.folder), file)

    def read(self, file: Path, source: Path) -> Callable[[dict[str, Tensor]], Tensor]:
        """See Export.read: latents, of the model's own conditions in place of prompts."""
        return whole_pipeline.reader(file)

    def call(self, sampler: ExportedSampler) -> str:
        """See Export.call; the pipeline draws the noise itself, and makes images."""
        return CALL.format(
            folder=self.file,
            sigmas=scheduled.lines_of_sigmas(scheduled.steps_of(sampler)),
            steps=sampler.grid.steps,
            guidance=scheduled.guidance_of(sampler),
        )
