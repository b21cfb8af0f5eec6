"""Latents: what a model learns of a source's images, where it works in those of a codec."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from fewstep import randomness
from fewstep.codec import Codec
from fewstep.data import Samples
from fewstep.errors import UserError
from fewstep.rows import Changed, Rows

JUDGED = 256  # held-out samples by which a codec is judged
STRETCHED = 8  # of them at which its derivative is looked at


@dataclass(frozen=True)
class Encoded:
    """Images as latents, encoded when they are asked for; see fewstep.rows.Rows."""

    images: Rows
    codec: Codec
    seed: int | None
    """Of the draws from the encoder's Gaussians; None takes their means."""

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """See Rows."""
        return len(self), *self.codec.encode(self.images[torch.arange(1)]).shape[1:]

    def __len__(self) -> int:
        """See Rows."""
        return len(self.images)

    def __getitem__(self, numbers: Tensor) -> Tensor:
        """See Rows."""
        images = self.images[numbers]
        if self.seed is None:
            return self.codec.encode(images)
        keys = torch.stack([torch.full_like(numbers, self.seed), numbers], dim=1)
        noise = randomness.noises("codec", keys, self.shape[1:])
        return self.codec.encode(images, noise.to(images))


def latents_of(source: Samples, codec: Codec, seed: int | None) -> Samples:
    """Return the latents of a source's images, encoded when they are asked for; latents stay as they are.

    Args:
        source: Images or latents.
        codec: Encodes images.
        seed: See Encoded.

    Raises:
        UserError: if the source has points, or the codec does not take its samples.
    """
    shape = source.data.shape[1:]
    if source.latents:
        codec.must_decode(shape)
        return source
    if not source.pixels:
        raise UserError("prepare.codec encodes images, and the source has points; remove it")
    codec.must_encode(shape)
    return replace(source, data=Encoded(images_of(source), codec, seed), affine=None, latents=True)


def images_of(source: Samples) -> Rows:
    """Return the images of a source, float32 in [-1, 1]."""
    if source.affine is None:
        return source.data
    scale, offset = source.affine
    return Changed(source.data, lambda part: part.float() * scale + offset)


def examined(codec: Codec, source: Samples, latents: Rows, numbers: Tensor) -> tuple[dict[str, Any], str]:
    """Return how some latents are spread and what decoding loses of their images, as facts and in words.

    Args:
        codec: Made the latents, (n, c, h, w).
        source: Where they come from.
        latents: Those that were held out.
        numbers: Of these in the source, int64 (n,).
    """
    some = torch.arange(min(len(latents), JUDGED))
    values = latents[some]
    facts: dict[str, Any] = {"mean": float(values.mean()), "std": float(values.std()), "rmse": None}
    facts["stretch"] = codec.stretch(values[:STRETCHED])
    told = (
        f"latents have mean {facts['mean']:.3g} and standard deviation {facts['std']:.3g}, and decoding "
        f"stretches small changes of them up to {facts['stretch']:.3g} times"
    )
    if source.pixels:
        lost = codec.decode(values).clamp(-1, 1) - images_of(source)[numbers[some]]
        facts["rmse"] = float(lost.square().mean().sqrt())
        told += f"; decoded, held-out images are {facts['rmse']:.3g} from what they were (RMSE in [-1, 1])"
    return facts, told
