"""Conditions of an .npz file's samples: its arrays conditions/<name>, null/<name> and negative/<name>."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fewstep import randomness
from fewstep.conditions import LABEL, Table
from fewstep.data._member import OpenNpz
from fewstep.errors import UserError
from fewstep.lazy import lazy_imports

if TYPE_CHECKING:
    from torch import Tensor

    from fewstep.data._samples import Samples

with lazy_imports():
    import torch

KINDS = ("conditions", "null", "negative")
TEXTS = "texts"


def is_of_conditions(array: str) -> bool:
    """Return whether an array of the file belongs to the conditions."""
    return array == TEXTS or (array.partition("/")[0] in KINDS and "/" in array)


def table_of(file: OpenNpz) -> Table | None:
    """Return the conditions of all samples in the file; None if it has none.

    Raises:
        UserError: if an array holds no numbers, or something else than finite ones, or two do not agree.
    """
    parts: dict[str, dict[str, np.ndarray]] = {kind: {} for kind in KINDS}
    for array in file.arrays:
        kind, _, name = array.partition("/")
        if array != TEXTS and is_of_conditions(array):
            parts[kind][name] = _numbers(file, array)
    if not parts["conditions"]:
        return None
    if LABEL in parts["conditions"]:
        raise UserError(f"{file.name}: class labels are the array y, not conditions/{LABEL}")
    try:
        return Table(
            rows=parts["conditions"], null=parts["null"], negative=parts["negative"], texts=_texts(file)
        )
    except UserError as error:
        raise UserError(f"{file.name}: {error}") from error


def texts_of(file: OpenNpz, count: int) -> tuple[str, ...]:
    """Return what each of `count` samples shows; () if the file does not say.

    Raises:
        UserError: if there are more texts, or fewer, or they are none.
    """
    texts = _texts(file)
    if len(texts) not in (0, count):
        raise UserError(f"{file.name}: there are {len(texts)} texts; {count} samples need as many")
    return texts


def kept_conditions(samples: Samples, train: Tensor, most: int, seed: int) -> Table | None:
    """Return the conditions, with the labels, of at most `most` of the samples with numbers `train`, (n,)."""
    if samples.conditions is None:
        return None
    drawn = torch.from_numpy(randomness.permutation("condition rows", seed, 0, len(train))[:most])
    numbers = train[drawn.sort().values]
    labels = {} if samples.label is None else {"label": samples.label[numbers]}
    return samples.conditions.pick(numbers, **labels)


def _numbers(file: OpenNpz, array: str) -> np.ndarray:
    values = file.read(array)
    if values.dtype.kind not in "fiub":
        raise UserError(f"{file.name}: {array} is {values.dtype}; save conditions as floats")
    values = values if values.dtype == np.float16 else values.astype(np.float32, copy=False)
    if not np.isfinite(values).all():
        raise UserError(f"{file.name}: {array} holds NaN or infinity; remove or mend them")
    return values


def _texts(file: OpenNpz) -> tuple[str, ...]:
    if TEXTS not in file.arrays:
        return ()
    texts = file.read(TEXTS)
    if texts.dtype.kind != "U" or texts.ndim != 1:
        raise UserError(
            f"{file.name}: {TEXTS} is {texts.dtype} of shape {texts.shape}; save one text a sample"
        )
    return tuple(texts.tolist())
