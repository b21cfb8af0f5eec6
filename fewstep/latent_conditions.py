"""Conditions that are images, in the size of latents: encoded as the samples are, or shrunk, as masks are.

So Dao et al. 2023 (arXiv 2307.08698) make images of semantic maps, and fill masked images: the network is
given the latents of the map or of what is left of the image, and the mask, beside those that it changes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from fewstep.codec import Codec
from fewstep.conditions import Table
from fewstep.data import Samples
from fewstep.errors import UserError
from fewstep.progress import SILENT, Progress

PART = 256  # rows that are changed together


def with_latent_conditions(
    samples: Samples, codec: Codec, asked: Mapping[str, str], progress: Progress = SILENT
) -> Samples:
    """Return latents with some of their conditions, which are images, in the size of the latents.

    Args:
        samples: Latents (n, c, h, w) of the codec.
        codec: Its images have the size of the conditions.
        asked: What is done with conditions (C, H, W), by their names: `encode` makes latents of images in
            [-1, 1], the means of the encoder's Gaussians; `shrink` takes the mean over the pixels of each
            latent. Their null and negative values are changed alike.
        progress: Told of every part.

    Raises:
        UserError: if there is no such condition, it is no image of that size, or one to encode has other
            channels than the codec takes, or another range.
    """
    if not asked:
        return samples
    there = {} if samples.conditions is None else samples.conditions.rows
    image = codec.image_shape(samples.data.shape[1:])
    for name, how in asked.items():
        where = f"prepare.codec.conditions.{name}"
        if name not in there:
            raise UserError(
                f"{where}: the data has no such condition; there are: {', '.join(there) or 'none'}"
            )
        rows = there[name]
        wanted = image if how == "encode" else (rows.shape[1], *image[1:])
        if rows.shape[1:] != wanted:
            raise UserError(
                f"{where}: {how} takes images of shape {wanted}, in the size that the codec makes, and the "
                f"condition has {rows.shape[1:]}; prepare it in that shape, or remove the line"
            )
        low, high = float(rows.min()), float(rows.max())
        if how == "encode" and not -1 <= low <= high <= 1:
            raise UserError(
                f"{where}: encode takes images in [-1, 1], and the condition has values from {low:g} to "
                f"{high:g}; scale them to that range"
            )
    assert samples.conditions is not None
    return replace(samples, conditions=_changed(samples.conditions, codec, asked, progress))


def _changed(table: Table, codec: Codec, asked: Mapping[str, str], progress: Progress) -> Table:
    calls = {"encode": codec.encode, "shrink": lambda images: functional.avg_pool2d(images, codec.factor)}
    rows, null, negative = (dict(part) for part in (table.rows, table.null, table.negative))
    progress.start("fit conditions to latents", len(asked) * len(table))
    for name, how in asked.items():
        rows[name] = _in_parts(calls[how], rows[name], progress)
        for part in (null, negative):
            if name in part:
                part[name] = _in_parts(calls[how], part[name][None], SILENT)[0]
    return Table(rows=rows, null=null, negative=negative, texts=table.texts)


def _in_parts(call: Callable[[Tensor], Tensor], values: np.ndarray, progress: Progress) -> np.ndarray:
    """Return what a call makes of images (n, C, H, W), in the type of their file."""
    parts = []
    for start in range(0, len(values), PART):
        part = torch.from_numpy(values[start : start + PART]).float()
        parts.append(call(part).numpy().astype(values.dtype))
        progress.advance(len(part))
    return np.concatenate(parts)
