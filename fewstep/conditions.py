"""Conditions: what the samples of a model depend on beside noise: a class label, and any tensors with a name.

A class label is a number; how often each class comes is known of the data. Of other conditions, such as the
embedding of a text, a model carries a `Table` with rows that were prepared, so that whoever has the model can
draw them; shards keep the number of a row. Which row is the sample's own, as its noise is.

The shape of a condition says how a network takes it: (features,) is a vector; (tokens, features) is a
sequence, of which `<name>_mask`, (tokens,), says which tokens count (1) and which do not (0); (channels,
height, width) is an image, which goes into a network beside the sample.
"""

from __future__ import annotations

import hashlib
import json
import keyword
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from fewstep import randomness
from fewstep.errors import UserError
from fewstep.lazy import lazy_imports

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

with lazy_imports():
    import safetensors
    import safetensors.numpy
    import torch

LABEL, ROW = "label", "row"
LAST_VELOCITY = "last_velocity"
"""What only a refiner is conditioned on; see fewstep.refining."""
TAKEN = frozenset(
    {"at_once", "blocks", "budget", "data", "flow", "grid", "guidance", "inputs", "keys", "label"}
    | {LAST_VELOCITY, "logits", "most_refined", "noise", "np", "numbers", "ratio", "refiner", "row"}
    | {"sampler", "samples", "self", "setting", "states", "t", "times", "tolerance", "torch", "truth"}
    | {"until", "weight", "x"}
)
"""Names that conditions can't have: batches, networks and the functions that pass them on use them."""
MASK = "_mask"

Shapes = Mapping[str, tuple[int, ...]]
NONE: Shapes = MappingProxyType({})


def check_shapes(shapes: Shapes) -> None:
    """Check the names and shapes of conditions.

    Raises:
        UserError: for a name that is taken or none, or a shape that no network takes.
    """
    for name, shape in shapes.items():
        if name in TAKEN or not name.isidentifier() or keyword.iskeyword(name):
            raise UserError(
                f"a condition can't be called {name!r}; call it by letters, digits and _, and not "
                f"{', '.join(sorted(TAKEN))}"
            )
        if len(shape) not in (1, 2, 3) or not all(type(size) is int and size >= 1 for size in shape):
            raise UserError(
                f"condition {name} has shape {tuple(shape)}; it must be (features,), (tokens, features) or "
                "(channels, height, width)"
            )
        of = shapes.get(name.removesuffix(MASK))
        if is_mask(name, shapes) and of is not None and tuple(shape) != of[:1]:
            raise UserError(
                f"condition {name} has shape {tuple(shape)}; {name.removesuffix(MASK)} has {of[0]} tokens, "
                f"so its mask must have {of[:1]}"
            )


def shapes_of(facts: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the conditions of data with these facts."""
    return {name: tuple(shape) for name, shape in facts.get("conditions", {}).items()}


def must_have(
    wanted: Mapping[str, tuple[int | None, ...]],
    there: Shapes,
    *,
    by: str,
    of: str = "the data has",
    remedy: str = "prepare data with that condition",
) -> None:
    """Refuse conditions that are not those that a network takes.

    Args:
        wanted: their shapes, with None where any size will do.
        there: those that are there.
        by: who takes them, to begin a message with.
        of: who has those that are there.
        remedy: what to do.

    Raises:
        UserError: if one is missing, or of another shape.
    """
    for name, shape in wanted.items():
        found = there.get(name, ())
        if len(found) != len(shape) or any(w not in (None, s) for w, s in zip(shape, found, strict=True)):
            sizes = ", ".join("any" if size is None else str(size) for size in shape)
            told = f"({sizes},)" if len(shape) == 1 else f"({sizes})"
            instead = tuple(found) if name in there else "none of that name"
            raise UserError(f"{by} takes the condition {name} of shape {told}, {of} {instead}; {remedy}")


def is_mask(name: str, shapes: Shapes) -> bool:
    """Return whether a condition says which tokens of another one count."""
    return name.endswith(MASK) and len(shapes.get(name.removesuffix(MASK), ())) == 2


def images(shapes: Shapes) -> dict[str, tuple[int, ...]]:
    """Return the conditions that are images."""
    return {name: shape for name, shape in shapes.items() if len(shape) == 3}


def images_must_fit(shapes: Shapes, shape: tuple[int, ...], *, by: str) -> None:
    """Refuse conditions that are images of another size than the samples.

    Args:
        shapes: the conditions.
        shape: of a sample, (channels, height, width).
        by: who takes them, to begin a message with.

    Raises:
        UserError: if one is.
    """
    for name, size in images(shapes).items():
        if tuple(size[1:]) != tuple(shape[1:]):
            raise UserError(
                f"{by}: condition {name} is an image of {size[1]}x{size[2]}, the samples of "
                f"{shape[1]}x{shape[2]}; prepare it in their size"
            )


def must_be_given(shapes: Shapes, given: Mapping[str, Tensor], *, by: str) -> None:
    """Refuse conditions that are not those of a model.

    Args:
        shapes: the conditions of the model, without its labels.
        given: each (n, *shape).
        by: who gives them, to begin a message with.

    Raises:
        UserError: if one is missing, or of another shape.
    """
    for name, shape in shapes.items():
        if name not in given:
            there = ", ".join(given) or "none"
            raise UserError(
                f"{by} must give the model its condition {name}, of shape {shape}; given: {there}"
            )
        if tuple(given[name].shape[1:]) != tuple(shape):
            raise UserError(
                f"{by} gives the condition {name} in shape {tuple(given[name].shape[1:])}, but the model "
                f"takes {tuple(shape)}; prepare it in that shape"
            )


@dataclass(frozen=True, eq=False, kw_only=True)
class Table:
    """Conditions that were prepared, and what stands for none of them.

    Raises:
        UserError: if the numbers of rows or the shapes do not agree.
    """

    rows: Mapping[str, np.ndarray]
    """By name, each (n, *shape); float32 or float16, and int64 for "label"."""
    null: Mapping[str, np.ndarray] = field(default_factory=dict)
    """What a network is given for no condition, each (*shape); zeros if nobody says."""
    negative: Mapping[str, np.ndarray] = field(default_factory=dict)
    """What guidance leads away from, each (*shape); the null value if nobody says."""
    texts: tuple[str, ...] = ()
    """What each row says, for people, (n,); or ()."""

    def __post_init__(self) -> None:
        check_shapes(self.shapes)
        counts = {name: len(values) for name, values in self.rows.items()}
        if self.texts:
            counts["texts"] = len(self.texts)
        if len(set(counts.values())) > 1:
            raise UserError(f"conditions must have as many rows each, got {counts}")
        if not any(counts.values()):
            raise UserError("a table of conditions must have a row")
        for what, values in (("null", self.null), ("negative", self.negative)):
            for name, value in values.items():
                if (mask := name + MASK) in self.rows and mask not in values:
                    raise UserError(
                        f"the {what} value of condition {name} needs {what}/{mask}: else no token counts"
                    )
                if name not in self.shapes:
                    raise UserError(f"there is a {what} value of condition {name}, but no rows; remove it")
                if value.shape != (wanted := self.shapes[name]):
                    raise UserError(
                        f"the {what} value of condition {name} has shape {value.shape}, its rows have "
                        f"{wanted}; give it their shape"
                    )

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(next(iter(self.rows.values())))

    def __deepcopy__(self, memo: dict[int, Any]) -> Table:
        """Return itself: nobody changes it, and averages of a model need no copy."""
        return self

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each condition but the label."""
        return {name: values.shape[1:] for name, values in self.rows.items() if name != LABEL}

    def only(self, names: Collection[str]) -> Table:
        """Return some of the conditions."""
        rows, null, negative = (
            {name: values for name, values in part.items() if name in names}
            for part in (self.rows, self.null, self.negative)
        )
        return Table(rows=rows, null=null, negative=negative, texts=self.texts)

    def pick(self, numbers: Tensor, **more: Tensor) -> Table:
        """Return some of the rows, of numbers int64 (n,), and `more` conditions of these, each (n, ...)."""
        chosen = numbers.numpy()
        rows = {name: values[chosen] for name, values in self.rows.items()}
        rows |= {name: values.numpy() for name, values in more.items()}
        texts = tuple(self.texts[number] for number in chosen) if self.texts else ()
        return Table(rows=rows, null=self.null, negative=self.negative, texts=texts)

    def take(self, numbers: Tensor) -> dict[str, Tensor]:
        """Return the rows with these numbers, int64 (n,): each (n, *shape), float32, and int64 labels."""
        chosen = numbers.cpu().numpy()
        found = {name: torch.from_numpy(values[chosen]) for name, values in self.rows.items()}
        return {name: rows.float() if rows.is_floating_point() else rows for name, rows in found.items()}

    def save(self, file: Path) -> None:
        """Write a safetensors file; equal tables give equal bytes."""
        tensors = {name: np.ascontiguousarray(values) for name, values in self._arrays()}
        metadata = {"texts": json.dumps(self.texts)} if self.texts else None
        safetensors.numpy.save_file(tensors, file, metadata=metadata)

    @classmethod
    def load(cls, file: Path) -> Table:
        """Return what `save` wrote, of which no more is read into memory than is asked for.

        Raises:
            UserError: if the file is missing or damaged.
        """
        parts: dict[str, dict[str, np.ndarray]] = {"rows": {}, "null": {}, "negative": {}}
        try:
            with safetensors.safe_open(file, framework="pt") as content:  # maps it; "numpy" would copy it
                texts = json.loads((content.metadata() or {}).get("texts", "[]"))
                for key in sorted(content.keys()):
                    kind, _, name = key.partition("/")
                    parts[kind][name] = content.get_tensor(key).numpy()
            return cls(**parts, texts=tuple(texts))
        except (OSError, KeyError, ValueError, TypeError, safetensors.SafetensorError, UserError) as error:
            raise UserError(f"{file} holds no conditions ({error}); make its folder again") from error

    @cached_property
    def digest(self) -> str:
        """The sha256 of all of it."""
        found = hashlib.sha256(json.dumps(self.texts).encode())
        for name, values in self._arrays():
            found.update(f"{name} {values.dtype} {values.shape}\n".encode())
            found.update(np.ascontiguousarray(values).data)
        return found.hexdigest()

    def _arrays(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yield all arrays by the names that they have in a file."""
        for kind, part in (("rows", self.rows), ("null", self.null), ("negative", self.negative)):
            yield from ((f"{kind}/{name}", values) for name, values in sorted(part.items()))


@dataclass(frozen=True, eq=False)
class Conditions:
    """The law of a model's conditions: which are those of sample number i of a stream."""

    shares: tuple[float, ...] = ()
    """How often each class comes among the labels, (classes,); () for no labels."""
    shapes: Shapes = field(default_factory=dict)
    """The shape of every other condition."""
    table: Table | None = None
    """Where those come from, and the label with them if it holds labels."""

    def chosen(self, stream: str, keys: Tensor) -> dict[str, Tensor]:
        """Return what shards keep of the conditions of samples, int64 (n,): label, row of the table, or both.

        Nothing for a model without conditions.

        Args:
            stream: names the numbers.
            keys: of the samples, int64 (n, 2): seed, index.

        Raises:
            UserError: if the model has conditions, but nothing to draw them from.
        """
        if self.shapes:
            if self.table is None:
                raise UserError(
                    f"the model has no table of its conditions ({', '.join(self.shapes)}) to draw from; give "
                    "them, or take a model of the chain"
                )
            row = {ROW: randomness.rows(stream, keys, len(self.table))}
            if LABEL in self.table.rows or not self.shares:
                return row
            return {LABEL: randomness.labels(stream, keys, self.shares), **row}
        return {LABEL: randomness.labels(stream, keys, self.shares)} if self.shares else {}

    def given(self, kept: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return a batch with the conditions in place of the number of their row."""
        given = dict(kept)
        if ROW in given:
            assert self.table is not None, "rows were drawn from a table"
            given |= self.table.take(given.pop(ROW))
        return given

    def drawn(self, stream: str, keys: Tensor) -> dict[str, Tensor]:
        """Return the conditions of samples as a flow takes them, each (n, ...); see `chosen`."""
        return self.given(self.chosen(stream, keys))

    def labels(self, stream: str, keys: Tensor) -> Tensor | None:
        """Return the class of samples, int64 (n,); None without classes."""
        if not self.shares:
            return None
        kept = self.chosen(stream, keys)
        if LABEL in kept:
            return kept[LABEL]
        assert self.table is not None, "rows were drawn from a table"
        return self.table.only([LABEL]).take(kept[ROW])[LABEL]

    def texts(self, stream: str, keys: Tensor) -> list[str]:
        """Return what the conditions of samples say, for people; [] if nobody wrote it down."""
        if self.table is None or not self.table.texts:
            return []
        return [self.table.texts[row] for row in self.chosen(stream, keys)[ROW].tolist()]

    def facts(self) -> dict[str, str]:
        """Return what shards note of the table that their rows are of."""
        return {"conditions": self.table.digest} if self.table is not None and self.shapes else {}

    def must_be_of(self, facts: Mapping[str, Any], *, where: str) -> None:
        """Refuse samples with rows of another table.

        Raises:
            UserError: if the samples whose shards have these facts were made with other conditions.
        """
        if facts.get("conditions") != self.facts().get("conditions"):
            raise UserError(
                f"{where} was made with other conditions than the model has; make it with a model of the "
                "same data and the same conditions"
            )

    def null(self, name: str) -> np.ndarray:
        """Return what a network is given for no condition, (*shape), float32."""
        return self._value(name, () if self.table is None else (self.table.null,))

    def negative(self, name: str) -> np.ndarray:
        """Return what guidance leads away from, (*shape), float32."""
        return self._value(name, () if self.table is None else (self.table.negative, self.table.null))

    def _value(self, name: str, said: Iterable[Mapping[str, np.ndarray]]) -> np.ndarray:
        found = next((values[name] for values in said if name in values), np.zeros(self.shapes[name]))
        return found.astype(np.float32)
