"""Torchcfm: the state dict of a U-Net of torchcfm, which is guided diffusion's, in safetensors."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from fewstep.errors import UserError
from fewstep.lazy import lazy_imports

if TYPE_CHECKING:
    from fewstep.foreign.found import Found

with lazy_imports():
    from fewstep.foreign import found, weights

TIME, FIRST, LAST = "time_embed.0.weight", "input_blocks.0.0.weight", "out.2.weight"
TOLD, DEEPEST = "middle_block.0.emb_layers.1.weight", "middle_block.0.in_layers.2.weight"
DIMENSIONS = {TIME: 2, FIRST: 4, LAST: 4, TOLD: 2, DEEPEST: 4}  # of what is read from
LABELS = "label_emb.weight"
OUTPUT = re.compile(r"output_blocks\.(\d+)\.0\.in_layers\.2\.weight")
UP = re.compile(r"output_blocks\.\d+\.[12]\.(conv|in_layers\.2)\.weight")


@dataclass(frozen=True, kw_only=True)
class Torchcfm:
    """Settings of the format; Tong et al. 2024 (arXiv 2302.00482), and the UNetModel of their code.

    Raises:
        UserError: if nobody or everybody says how many heads an attention has.
    """

    marks: ClassVar[tuple[str, ...]] = (FIRST,)

    heads: int | None = None
    """Heads of an attention, num_heads of their class; if nobody says, what head_channels says."""
    head_channels: int | None = None
    """Channels of a head, num_head_channels of their class."""
    heads_first: bool = True
    """False if their class was given use_new_attention_order."""

    def __post_init__(self) -> None:
        if self.heads is not None and self.head_channels is not None:
            raise UserError("torchcfm: heads and head_channels say the same; set one of them")
        for name in ("heads", "head_channels"):
            if (said := getattr(self, name)) is not None and said < 1:
                raise UserError(f"torchcfm: {name} must be 1 or more, got {said}")

    def look(self, folder: Path) -> Found:
        """See Format.look; a network of torchcfm predicts the velocity of the linear path, by its time."""
        files = weights.files_of(folder)
        there = weights.shapes(files)
        for name, dimensions in DIMENSIONS.items():
            if len(there.get(name, ())) != dimensions:
                raise UserError(
                    f"{folder} has no {name} of {dimensions} dimensions, which weights of torchcfm's U-Net "
                    "have; save the state dict of its U-Net: in a checkpoint of torchcfm's examples it is "
                    "under `ema_model`; remove the prefix `module.` from names"
                )
        if self.heads is None and self.head_channels is None:
            raise UserError(
                f"{folder}: no weight says how many heads its attentions have; set heads or head_channels "
                "beside the name of the format, as num_heads or num_head_channels of their UNetModel"
            )
        architecture, channels = architecture_of(there), there[FIRST][1]
        heads = {"head_channels": self.head_channels} if self.head_channels else {"heads": self.heads}
        return found.Found(
            architecture=architecture | heads | {"heads_first": self.heads_first},
            files=files,
            described=found.Described(
                channels=channels,
                labels=architecture["labels"],
                sides=2 ** (len(architecture["multipliers"]) - 1),
            ),
            declared={"prediction": "velocity", "path": "linear", "time": "t", "time_scale": 1.0},
        )


def architecture_of(there: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    """Return the settings of fewstep.models.adm that weights of these shapes are of, but for heads.

    On the way up a layer that doubles the sides follows all levels but the last, so levels are counted.

    Raises:
        UserError: if blocks on the way up are missing.
    """
    made = {int(match[1]): there[name][0] for name in there if (match := OUTPUT.fullmatch(name))}
    ups = [match for match in map(UP.fullmatch, there) if match]
    count = 1 + len(ups)
    on_the_way_up = len(made) // count
    if sorted(made) != list(range(count * on_the_way_up)):
        raise UserError(
            f"of output_blocks there are weights of {len(made)}, not of as many in each of {count} levels; "
            "save the whole state dict of torchcfm's U-Net"
        )
    lasts = [(level + 1) * on_the_way_up - 1 for level in reversed(range(count))]  # full resolution first
    width = there[TIME][1]
    return {
        "name": "adm",
        "width": width,
        "multipliers": [whole(made[last] / width) for last in lasts],
        "blocks": on_the_way_up - 1,
        "attention": [n for n, last in enumerate(lasts) if f"output_blocks.{last}.1.qkv.weight" in there],
        "scale_shift": there[TOLD][0] == 2 * there[DEEPEST][0],
        "resample_blocks": any(match[1] != "conv" for match in ups),
        "variance": there[LAST][0] == 2 * there[FIRST][1],
        "labels": there.get(LABELS, (0,))[0],
    }


def whole(number: float) -> float:
    """Return a number, as int where it is one."""
    return int(number) if number.is_integer() else number
