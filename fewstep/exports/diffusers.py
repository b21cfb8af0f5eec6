"""Diffusers: the network as a component of a pipeline of diffusers, with a scheduler and its sigmas."""

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
    from fewstep.exporting import scheduled
    from fewstep.foreign import library


@dataclass(frozen=True)
class Diffusers(Export):
    """Of students of adopted networks; an adapter is in the weights."""

    file: ClassVar[str] = "diffusers"
    title: ClassVar[str] = "diffusers"
    libraries: ClassVar[tuple[str, ...]] = ("diffusers",)
    extra: ClassVar[str] = "foreign"
    by_schedulers: ClassVar[bool] = True

    def write(self, sampler: ExportedSampler, file: Path, source: Path) -> None:
        """See Export.write."""
        scheduled.must_be_possible(sampler)
        scheduled.network_of(sampler).save_pretrained(file / scheduled.component_of(sampler))
        scheduled.write(sampler, file)

    def read(self, file: Path, source: Path) -> Callable[[dict[str, Tensor]], Tensor]:
        """See Export.read."""
        (config,) = file.glob("*/config.json")
        name = scheduled.class_in(config)
        network = library.network_class(name).from_pretrained(config.parent)  # type: ignore[attr-defined]
        return scheduled.reader(network.eval(), file)

    def call(self, sampler: ExportedSampler) -> str:
        """See Export.call."""
        name, component = sampler.model.config.architecture["network"], scheduled.component_of(sampler)
        made = f'network = {name}.from_pretrained("{self.file}/{component}").eval()'
        return scheduled.call(sampler, self.file, made)
