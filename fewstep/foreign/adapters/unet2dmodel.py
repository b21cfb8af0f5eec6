"""UNet2DModel of diffusers: network(sample, timestep, class_labels)."""

from typing import Any

from torch import Tensor

from fewstep.foreign.adapter import Adapter, side_of
from fewstep.foreign.found import Described


class Unet2dmodel(Adapter):
    """Its table of classes may end with a null condition; its options don't say."""

    def call(self, x: Tensor, t: Tensor, label: Tensor | None, **conditions: Tensor) -> Tensor:
        """See Adapter.call."""
        return self.network(x, t, class_labels=self.named(label, x), return_dict=False)[0]

    @staticmethod
    def describe(options: dict[str, Any]) -> Described:
        """See Adapter.describe."""
        return Described(
            channels=options.get("in_channels", 3),
            side=side_of(options.get("sample_size")),
            labels=options.get("num_class_embeds") or 0,
        )
