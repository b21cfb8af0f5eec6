"""Facts: what is known of a data set without its samples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fewstep.data._classes import shares_of

if TYPE_CHECKING:
    from torch import Tensor

    from fewstep.data._samples import Samples


def facts_of(samples: Samples, train: Tensor) -> dict[str, Any]:
    """Return the shape, classes, other conditions, units and notes, as JSON values.

    Args:
        samples: all of them, without empty classes.
        train: the numbers, int64 (n,), of those to train on, whose class shares count.
    """
    names, notes, shares = samples.class_names, [*samples.notes], list(samples.class_shares)
    if samples.label is not None and not shares:
        shares = shares_of(samples.label[train], len(names))
        if unseen := [name for name, share in zip(names, shares, strict=True) if not share]:
            notes.append(
                f"{len(unseen)} of {len(names)} classes have held-out samples alone, and are never drawn: "
                f"{', '.join(unseen[:5])}{', ...' if unseen[5:] else ''}"
            )
    facts = {
        "shape": list(samples.data.shape[1:]),
        "classes": len(names),
        "class_names": list(names),
        "class_shares": shares,
        "units": samples.units,
        "notes": notes,
    }
    if samples.conditions is not None:
        facts["conditions"] = {name: list(shape) for name, shape in samples.conditions.shapes.items()}
    return facts
