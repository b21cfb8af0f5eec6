"""Draws: noise and labels by number, the same in whatever batches they are drawn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from etils.epy import lazy_imports

from fewstep import randomness

if TYPE_CHECKING:
    from torch import Tensor

with lazy_imports():
    import torch


def draws(
    stream: str,
    seed: int,
    indices: range,
    *,
    shape: tuple[int, ...],
    shares: Sequence[float],
    batch: int,
    device: torch.device | str = "cpu",
) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
    """Yield the noise (n, *shape) of the samples `indices`, and their conditions, n <= batch at a time.

    Args:
        stream: names the numbers; two streams never share any.
        seed: names them too.
        indices: the samples, in steps of 1.
        shape: of one sample.
        shares: how often each class comes among the labels (n,); without classes there are no conditions.
        batch: the greatest n; the last batch holds what is left.
        device: where the tensors are put.

    Yields:
        Noise and conditions, as a flow takes them.
    """
    for start in range(indices.start, indices.stop, batch):
        keys = randomness.keys_of(seed, start, min(start + batch, indices.stop))
        conditions = {"label": randomness.labels(stream, keys, shares).to(device)} if shares else {}
        yield randomness.noises(stream, keys, shape).to(device), conditions
