"""Classes: numbered 0, 1, 2, ... without gaps, whatever the data calls them, and how often each comes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from fewstep.lazy import lazy_imports

if TYPE_CHECKING:
    from torch import Tensor

    from fewstep.data._samples import Samples

with lazy_imports():
    import torch


def without_empty_classes(samples: Samples) -> Samples:
    """Return the samples with a class for each label that comes, in their order, and a name for each.

    A class without samples would be drawn, and a network would be asked for what it never saw.
    """
    if samples.label is None:
        return samples
    there, label = samples.label.unique(return_inverse=True)
    names = samples.class_names or tuple(map(str, range(int(there[-1]) + 1)))
    kept = tuple(names[number] for number in there.tolist())
    found = replace(samples, label=label, class_names=kept)
    if kept == names:
        return found
    lost = [name for name in names if name not in kept]
    some = ", ".join(lost[:5] + ["..."] * (len(lost) > 5))
    note = (
        f"{len(lost)} of {len(names)} classes have no samples ({some}); the {len(kept)} that have are "
        f"numbered from 0: class 0 is {kept[0]!r}, class {len(kept) - 1} is {kept[-1]!r}"
    )
    return replace(found, notes=(*samples.notes, note))


def shares_of(label: Tensor, classes: int) -> list[float]:
    """Return the share of each class, (classes,), among labels, int64 (n,)."""
    return (torch.bincount(label, minlength=classes).double() / len(label)).tolist()
