"""PixArtTransformer2DModel of diffusers: network(hidden_states, encoder_hidden_states, timestep, ...)."""

from typing import Any

from torch import Tensor

from fewstep.foreign.adapter import Adapter, side_of
from fewstep.foreign.found import Described


class Pixarttransformer2dmodel(Adapter):
    """Its conditions are text, perhaps text_mask, and of a large one resolution and aspect_ratio."""

    def call(self, x: Tensor, t: Tensor, label: Tensor | None, **conditions: Tensor) -> Tensor:
        """See Adapter.call."""
        return self.network(
            x,
            encoder_hidden_states=conditions["text"],
            timestep=t,
            added_cond_kwargs={name: conditions.get(name) for name in ("resolution", "aspect_ratio")},
            encoder_attention_mask=conditions.get("text_mask"),
            return_dict=False,
        )[0]

    @staticmethod
    def describe(options: dict[str, Any]) -> Described:
        """See Adapter.describe; defaults are those of diffusers."""
        size, width = options.get("sample_size", 128), options.get("cross_attention_dim", 1152)
        large = options.get("use_additional_conditions")
        conditions: dict[str, tuple[int | None, ...]] = {
            "text": (None, options.get("caption_channels") or width)
        }
        if large or (large is None and size == 128):
            conditions |= {"resolution": (2,), "aspect_ratio": (1,)}
        return Described(
            channels=options.get("in_channels", 4),
            side=side_of(size),
            conditions=conditions,
            optional={"text_mask": (None,)},
        )
