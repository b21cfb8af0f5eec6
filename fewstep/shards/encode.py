"""Encode: the samples made for a shard become stored tensors and descriptions of their fields.

`fewstep.shards.fields.decode` is the way back.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from fewstep.errors import UserError
from fewstep.registry import unknown
from fewstep.shards.fields import Field, count, draw
from fewstep.shards.recipe import FLOATS, Recipe


def encode(
    recipe: Recipe, part: range, made: dict[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, Field]]:
    """Return the stored tensors (n, *shape) of one shard by field, and how each field is stored.

    Args:
        recipe: Of the whole set; its `drawn` fields are checked and left out.
        part: The numbers of the shard's n samples.
        made: Their fields, (n, *shape), those that are drawn included.

    Raises:
        UserError: if a drawn field isn't the noise that will be drawn, a sample isn't finite once stored, a
            weight is negative, or the recipe names a field that was not made.
    """
    for name, field in recipe.drawn.items():
        if name not in made:
            raise UserError(unknown("field", name, list(made)))
        check_drawn(name, field, made[name], part.start)
    kept = {name: tensor for name, tensor in made.items() if name not in recipe.drawn}
    stored = storable(kept, recipe.dtypes, part.start)
    check_weights(stored, part.start)
    fields = describe(stored, recipe.affine)
    if strange := (recipe.dtypes.keys() | recipe.affine.keys()) - fields.keys():
        raise UserError(unknown("field", min(strange), list(fields)))
    assert count(stored) == len(part), "make returned another number of samples"
    return stored, fields


def check_drawn(name: str, field: Field, made: Tensor, start: int) -> None:
    """Refuse noise that would not be drawn again; the ends of a shard tell.

    Args:
        name: of the field.
        field: how it will be drawn.
        made: what a shard's samples have, (n, *shape).
        start: number of the first of them.

    Raises:
        UserError: if it is other noise.
    """
    ends = torch.tensor([0, len(made) - 1])
    if not torch.equal(made[ends].cpu(), draw(field, start + ends)):
        raise UserError(
            f"field {name!r} of samples {start} to {start + len(made) - 1} isn't the noise that "
            f"{field['drawn']} draws: give the stream, seed and first index it comes from, or store it"
        )


def storable(fields: dict[str, Tensor], dtypes: Mapping[str, str], first: int) -> dict[str, Tensor]:
    """Return the fields in their storage types; sample number `first` is their first."""
    stored = {}
    for name, tensor in fields.items():
        if tensor.is_floating_point():
            stored[name] = tensor.detach().cpu().to(FLOATS[dtypes.get(name, "float32")])
            bad = ~stored[name].isfinite().reshape(len(tensor), -1).all(1)
            if bad.any():
                raise UserError(
                    f"field {name!r} of sample {first + int(bad.nonzero()[0])} isn't finite when stored as "
                    f"{dtypes.get(name, 'float32')} ({int(bad.sum())} such samples in this shard); what "
                    "made it has diverged, or needs a wider storage type"
                )
        else:
            stored[name] = tensor.cpu() if tensor.dtype == torch.uint8 else tensor.cpu().long()
    return stored


def check_weights(stored: dict[str, Tensor], first: int) -> None:
    """Refuse weights that aren't one number from 0 a sample; sample number `first` is the first.

    Raises:
        UserError: naming the sample.
    """
    if "weight" not in stored:
        return
    weights = stored["weight"]
    if weights.dim() != 1:
        raise UserError(f"field 'weight' is one number a sample, got shape {list(weights.shape[1:])}")
    if (weights < 0).any():
        bad = int((weights < 0).nonzero()[0])
        raise UserError(
            f"field 'weight' of sample {first + bad} is {float(weights[bad])}, but a loss can only be "
            "multiplied by numbers from 0; write 0 for a sample that must not count"
        )


def describe(stored: dict[str, Tensor], affine: Mapping[str, tuple[float, float]]) -> dict[str, Field]:
    """Return the fields of `stored`; `affine` gives (scale, offset) of the uint8 ones."""
    fields = {}
    for name, tensor in sorted(stored.items()):
        field = Field(dtype=str(tensor.dtype).removeprefix("torch."), shape=list(tensor.shape[1:]))
        if tensor.dtype == torch.uint8:
            field["scale"], field["offset"] = map(float, affine.get(name, (1, 0)))
        fields[name] = field
    return fields
