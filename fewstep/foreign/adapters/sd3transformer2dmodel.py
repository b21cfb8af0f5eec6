"""SD3Transformer2DModel of diffusers: network(hidden_states, encoder_hidden_states, ...)."""

from typing import Any

from torch import Tensor

from fewstep.foreign.adapter import Adapter, side_of
from fewstep.foreign.found import Described


class Sd3transformer2dmodel(Adapter):
    """Its conditions are text, the states of its three text encoders one after the other, and pooled."""

    def call(self, x: Tensor, t: Tensor, label: Tensor | None, **conditions: Tensor) -> Tensor:
        """See Adapter.call."""
        return self.network(
            x,
            encoder_hidden_states=conditions["text"],
            pooled_projections=conditions["pooled"],
            timestep=t,
            return_dict=False,
        )[0]

    @staticmethod
    def describe(options: dict[str, Any]) -> Described:
        """See Adapter.describe; defaults are those of diffusers."""
        return Described(
            channels=options.get("in_channels", 16),
            side=side_of(options.get("sample_size", 128)),
            conditions={
                "text": (None, options.get("joint_attention_dim", 4096)),
                "pooled": (options.get("pooled_projection_dim", 2048),),
            },
        )
