"""FluxTransformer2DModel of diffusers: network(hidden_states, ...) on packed latents."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from fewstep.errors import UserError
from fewstep.foreign.adapter import Adapter
from fewstep.foreign.found import Described

PACKED = 2
"""Side of the square of latents that is one token."""
TIMES = 1000
"""What the network multiplies its time by; others of a flow are given 1000 sigma."""


class Fluxtransformer2dmodel(Adapter):
    """Its conditions are text and pooled; one that was distilled with guidance takes that as an input."""

    def call(self, x: Tensor, t: Tensor, label: Tensor | None, **conditions: Tensor) -> Tensor:
        """See Adapter.call."""
        text = conditions["text"]
        rows, columns = (side // PACKED for side in x.shape[2:])
        output = self.network(
            functional.pixel_unshuffle(x, PACKED).flatten(2).mT,
            encoder_hidden_states=text,
            pooled_projections=conditions["pooled"],
            timestep=t / TIMES,
            guidance=conditions.get("guidance"),
            img_ids=_places(x, rows, columns),
            txt_ids=x.new_zeros(text.shape[1], 3),
            return_dict=False,
        )[0]
        return functional.pixel_shuffle(output.mT.unflatten(2, (rows, columns)), PACKED)

    @staticmethod
    def describe(options: dict[str, Any]) -> Described:
        """See Adapter.describe; defaults are those of diffusers."""
        channels, patch = options.get("in_channels", 64), options.get("patch_size", 1)
        made = options.get("out_channels") or channels
        if patch != 1 or channels % PACKED**2 or made != channels:
            raise UserError(
                f"FluxTransformer2DModel with in_channels {channels}, out_channels {made} and patch_size "
                f"{patch} needs what fewstep can't supply, such as an image beside the sample"
            )
        return Described(
            channels=channels // PACKED**2,
            sides=PACKED,
            conditions={
                "text": (None, options.get("joint_attention_dim", 4096)),
                "pooled": (options.get("pooled_projection_dim", 768),),
            },
            guidance_input=bool(options.get("guidance_embeds", False)),
        )


def _places(x: Tensor, rows: int, columns: int) -> Tensor:
    """Return a zero, the row and the column of each token, (rows * columns, 3)."""
    row, column = torch.arange(rows, device=x.device), torch.arange(columns, device=x.device)
    across = torch.cartesian_prod(row, column)
    return functional.pad(across, (1, 0)).to(x.dtype)
