"""UNet2DConditionModel of diffusers: network(sample, timestep, encoder_hidden_states, ...)."""

from typing import Any

import torch
from torch import Tensor

from fewstep.errors import UserError
from fewstep.foreign.adapter import Adapter, side_of
from fewstep.foreign.found import Described

UNKNOWN = ("class_embed_type", "encoder_hid_dim_type", "time_cond_proj_dim")
"""Arguments with which a network needs what fewstep has no name for."""
SIZES = ("addition_time_embed_dim", "projection_class_embeddings_input_dim")
"""Arguments that say the shapes of SDXL's conditions."""


class Unet2dconditionmodel(Adapter):
    """Its conditions are text, perhaps text_mask, of SDXL pooled and sizes; images go in beside the sample.

    A network for inpainting takes the images by the order of their names after the sample: mask, then
    masked_image.
    """

    def call(self, x: Tensor, t: Tensor, label: Tensor | None, **conditions: Tensor) -> Tensor:
        """See Adapter.call."""
        beside = [conditions[name] for name in sorted(conditions) if conditions[name].dim() == 4]
        added = None
        if "pooled" in conditions:
            added = {"text_embeds": conditions["pooled"], "time_ids": conditions["sizes"]}
        return self.network(
            torch.cat([x, *beside], dim=1),
            t,
            encoder_hidden_states=conditions["text"],
            class_labels=self.named(label, x),
            encoder_attention_mask=conditions.get("text_mask"),
            added_cond_kwargs=added,
            return_dict=False,
        )[0]

    @staticmethod
    def describe(options: dict[str, Any]) -> Described:
        """See Adapter.describe; defaults are those of diffusers."""
        added, width = options.get("addition_embed_type"), options.get("cross_attention_dim", 1280)
        needed = [f"{name} {options[name]!r}" for name in UNKNOWN if options.get(name) is not None]
        if added not in (None, "text_time"):
            needed.append(f"addition_embed_type {added!r}")
        if not isinstance(width, int):
            needed.append(f"cross_attention_dim {width!r}")
        if added == "text_time":
            sizes = {name: options.get(name) for name in SIZES}
            needed += [f"{name} {size!r}" for name, size in sizes.items() if not isinstance(size, int)]
        if needed:
            raise UserError(f"UNet2DConditionModel with {needed[0]} needs what fewstep can't supply")
        conditions: dict[str, tuple[int | None, ...]] = {"text": (None, width)}
        if added is not None:
            sizes = 6 * options["addition_time_embed_dim"]
            conditions["pooled"] = (options["projection_class_embeddings_input_dim"] - sizes,)
            conditions["sizes"] = (6,)
        channels = options.get("out_channels", 4)
        return Described(
            channels=channels,
            side=side_of(options.get("sample_size")),
            labels=options.get("num_class_embeds") or 0,
            conditions=conditions,
            optional={"text_mask": (None,)},
            beside=options.get("in_channels", 4) - channels,
        )
