"""ForeignPairs: pairs of another tool as fields for shards, checked as they are read."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Protocol

import numpy as np

from fewstep.errors import UserError
from fewstep.lazy import lazy_imports
from fewstep.left_out import counted

if TYPE_CHECKING:
    from torch import Tensor

with lazy_imports():
    import torch


class Records(Protocol):
    """What each kind of file is read through."""

    count: int
    """How many pairs there are."""
    shape: tuple[int, ...]
    """Of one noise, and of its data."""
    labels: np.ndarray | None
    """(count,) int64, as they are."""
    passed_over: Counter[str]
    """How much of what else is there goes unused, by its name or ending."""

    def read(self, start: int, stop: int) -> dict[str, np.ndarray]:
        """Return noise and data, (n, *shape), and perhaps weight, (n,), of start <= pair < stop, float32."""


class ForeignPairs:
    """Pairs that another tool made.

    Attributes:
        count: how many there are.
        shape: of one noise, and of its data.
        classes: 1 + the greatest label; 0 if there are no labels.
        notes: what a user should know of how they were read, such as what was passed over.

    Raises:
        UserError: if there are none, or a label is negative.
    """

    def __init__(self, name: str, records: Records) -> None:
        self._name, self._records, self._labels = name, records, records.labels
        self.count, self.shape = records.count, records.shape
        if not self.count:
            raise UserError(f"{name} is empty: it holds no pairs")
        if self._labels is not None and self._labels.min() < 0:
            pair = int(self._labels.argmin())
            raise UserError(f"{name}: label {self._labels[pair]} of pair {pair} is negative; count from 0")
        unused = records.passed_over
        self.notes = [f"{name}: passed over {counted(unused)}"] if unused else []
        self.classes = 0 if self._labels is None else int(self._labels.max()) + 1

    def must_suit(self, *, shape: tuple[int, ...], classes: int) -> None:
        """Refuse to be used with a model that takes something else.

        Args:
            shape: of the model's samples.
            classes: of the model; 0 if it takes no labels.

        Raises:
            UserError: naming what differs.
        """
        if self.shape != tuple(shape):
            raise UserError(
                f"{self._name} holds pairs of shape {self.shape}, but the model takes {tuple(shape)} (images "
                "are channels, height, width); save them so, or name a model of that shape"
            )
        if classes and self._labels is None:
            raise UserError(
                f"{self._name} holds no labels, but the model has {classes} classes; add a label to each pair"
            )
        if self._labels is not None and not classes:
            raise UserError(f"{self._name} holds labels, but the model has no classes; remove them")
        if self.classes > classes:
            assert self._labels is not None
            pair = int((self._labels >= classes).argmax())
            raise UserError(
                f"{self._name}: label {self._labels[pair]} of pair {pair} is none of the model's {classes} "
                "classes, which count from 0; mend it, or name a model that has it"
            )

    def shares(self, total: int, classes: int) -> list[float]:
        """Return the share of each class, (classes,), among the labels of the first `total` pairs."""
        assert self._labels is not None, "the pairs have labels"
        return (np.bincount(self._labels[:total], minlength=classes) / total).tolist()

    def read(self, start: int, stop: int) -> dict[str, Tensor]:
        """Return the pairs start <= pair < stop, the fields for fewstep.shards.

        "noise" and "data", (n, *shape), and perhaps "weight", (n,), float32; perhaps "label", (n,), int64.

        Raises:
            UserError: if a pair is damaged, not of `shape`, or holds something else than finite numbers.
        """
        assert 0 <= start < stop <= self.count, "pairs are read within their count"
        found = self._records.read(start, stop)
        for field, values in found.items():
            finite = np.isfinite(values).reshape(len(values), -1).all(1)
            self._refuse(~finite, start, f"hold NaN or infinity in their {field}")
        if "weight" in found:
            self._refuse(found["weight"] < 0, start, "have a negative weight")
        fields = {field: torch.from_numpy(values) for field, values in found.items()}
        if self._labels is not None:
            fields["label"] = torch.from_numpy(self._labels[start:stop].copy())
        return fields

    def _refuse(self, bad: np.ndarray, start: int, what: str) -> None:
        if bad.any():
            raise UserError(
                f"{self._name}: {bad.sum()} of the pairs {start} to {start + len(bad) - 1} {what}, the first "
                f"is number {start + bad.argmax()} (counted from 0); remove or mend them"
            )
