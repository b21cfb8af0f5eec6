"""Draws: noise and conditions by number, the same in whatever batches they are drawn."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from fewstep import randomness
from fewstep.lazy import lazy_imports

if TYPE_CHECKING:
    from torch import Tensor

    from fewstep.conditions import Conditions
    from fewstep.model import Model
    from fewstep.noises import Law

with lazy_imports():
    import torch


def draws(
    stream: str,
    seed: int,
    indices: range,
    *,
    shape: tuple[int, ...],
    law: Law,
    conditions: Conditions,
    batch: int,
    device: torch.device | str = "cpu",
) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
    """Yield the noise (n, *shape) of the samples `indices`, and their conditions, n <= batch at a time.

    Args:
        stream: names the numbers; two streams never share any.
        seed: names them too.
        indices: the samples, in steps of 1.
        shape: of one sample.
        law: of the noise; `noise` of a fewstep.model.Model.
        conditions: which those of a sample are; `conditions` of a fewstep.model.Model.
        batch: the greatest n; the last batch holds what is left.
        device: where the tensors are put.

    Yields:
        Noise and conditions, as a flow takes them.
    """
    for start in range(indices.start, indices.stop, batch):
        keys = randomness.keys_of(seed, start, min(start + batch, indices.stop))
        drawn = {name: values.to(device) for name, values in conditions.drawn(stream, keys).items()}
        yield law.draw(stream, keys, shape).to(device), drawn


def draws_of(
    model: Model, stream: str, seed: int, indices: range, *, batch: int, device: torch.device | str = "cpu"
) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
    """Yield what samples of a model start from; see `draws`."""
    return draws(
        stream,
        seed,
        indices,
        shape=model.config.shape,
        law=model.noise,
        conditions=model.conditions,
        batch=batch,
        device=device,
    )
