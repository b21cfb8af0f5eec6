"""A network called as network(x, t), or network(x, t, label) with classes: as SiT and DiT."""

from typing import ClassVar

from torch import Tensor

from fewstep.foreign.adapter import Adapter


class XT(Adapter):
    """The order of most code; its options say nothing of samples and classes."""

    takes_any: ClassVar[bool] = True

    def call(self, x: Tensor, t: Tensor, label: Tensor | None, **conditions: Tensor) -> Tensor:
        """See Adapter.call."""
        label = self.named(label, x)
        return self.network(x, t, *([] if label is None else [label]), **conditions)
