"""What the formats share that hold an adapter alone."""

from typing import ClassVar

from fewstep.exports import Export


class AdapterExport(Export):
    """An adapter over a network of diffusers, whose user has the base."""

    libraries: ClassVar[tuple[str, ...]] = ("diffusers",)
    extra: ClassVar[str] = "foreign"
    by_schedulers: ClassVar[bool] = True
    of_adapters: ClassVar[bool] = True
