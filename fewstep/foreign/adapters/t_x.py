"""A network called as network(t, x), or network(t, x, label) with classes: as torchcfm's."""

from typing import ClassVar

from torch import Tensor

from fewstep.foreign.adapter import Adapter


class TX(Adapter):
    """The order of code for differential equations."""

    takes_any: ClassVar[bool] = True

    def call(self, x: Tensor, t: Tensor, label: Tensor | None, **conditions: Tensor) -> Tensor:
        """See Adapter.call."""
        label = self.named(label, x)
        return self.network(t, x, *([] if label is None else [label]), **conditions)
