"""DiTTransformer2DModel of diffusers: network(hidden_states, timestep, class_labels)."""

from typing import Any

from torch import Tensor

from fewstep.foreign.adapter import Adapter, side_of
from fewstep.foreign.found import Described


class Dittransformer2dmodel(Adapter):
    """Its table of classes has one row more than num_embeds_ada_norm says: the null condition."""

    def call(self, x: Tensor, t: Tensor, label: Tensor | None, **conditions: Tensor) -> Tensor:
        """See Adapter.call."""
        return self.network(x, timestep=t, class_labels=self.named(label, x), return_dict=False)[0]

    @staticmethod
    def describe(options: dict[str, Any]) -> Described:
        """See Adapter.describe; defaults are those of diffusers."""
        return Described(
            channels=options.get("in_channels", 4),
            side=side_of(options.get("sample_size", 32)),
            labels=(options.get("num_embeds_ada_norm") or 1000) + 1,
            null=True,
        )
