"""State dicts of the code of DiT and SiT: which network of fewstep.models.dit they are of."""

import math
import re
from pathlib import Path
from typing import Any

from fewstep.errors import UserError
from fewstep.foreign.found import Described, Found
from fewstep.foreign.weights import files_of, shapes

HEADS = {384: 6, 768: 12, 1024: 16, 1152: 16}
"""By the width, of the sizes S, B, L and XL."""
PATCHES, TABLE, PLACES = "x_embedder.proj.weight", "y_embedder.embedding_table.weight", "pos_embed"
LAST = "final_layer.linear.bias"
DIMENSIONS = {PATCHES: 4, TABLE: 2, PLACES: 3, LAST: 1}  # of what is read from
BLOCK = re.compile(r"blocks\.(\d+)\.")


def look(folder: Path, heads: int | None, declared: dict[str, Any]) -> Found:
    """Return what weights in safetensors say of their network, whose last label is the null condition.

    Args:
        folder: Where they lie.
        heads: Of an attention, which no weight tells; None for those of its size.
        declared: See fewstep.foreign.found.Found.

    Raises:
        UserError: if they are not those of such a network, or nobody says how many heads it has.
    """
    files = files_of(folder)
    there = shapes(files)
    for name, dimensions in DIMENSIONS.items():
        if len(there.get(name, ())) != dimensions:
            raise UserError(
                f"{folder} has no {name} of {dimensions} dimensions, which the weights of DiT and SiT have; "
                "save the state dict of the network: in a checkpoint of their training it is under `ema`"
            )
    width, channels, patch, _ = there[PATCHES]
    if heads is None and width not in HEADS:
        raise UserError(
            f"{folder}: nothing says how many heads a transformer of width {width} has; set heads beside the "
            "name of the format"
        )
    tokens = there[PLACES][1]
    rows = math.isqrt(tokens)
    return Found(
        architecture={
            "name": "dit",
            "width": width,
            "depth": 1 + max((int(found[1]) for found in map(BLOCK.match, there) if found), default=0),
            "heads": heads or HEADS[width],
            "patch": patch,
            "variance": there[LAST][0] == 2 * channels * patch**2,
        },
        files=files,
        described=Described(
            channels=channels,
            side=(rows * patch, rows * patch) if rows**2 == tokens else None,
            labels=there[TABLE][0],
            null=True,
            sides=patch,
        ),
        declared=declared,
    )
