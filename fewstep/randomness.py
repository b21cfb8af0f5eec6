"""Randomness that belongs to the sample, not to the batch, the worker or the order of work.

A sample is named by a key (seed, index). Its numbers come from numpy's counter-based Philox
generator, keyed by a 64-bit digest of (stream, seed) with the counter starting at the index, so
they are the same at any batch size and on any worker. Streams such as "couple" or "train" never
share numbers. Torch's own CPU generator can't do this: it keeps only 32 bits of its seed.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fewstep.lazy import lazy_imports
from fewstep.prefetch import prefetchable

if TYPE_CHECKING:
    from torch import Tensor

with lazy_imports():
    import torch


GOLDEN = 0x9E3779B97F4A7C15
"""2**64 over the golden ratio."""


def digest64(stream: str, seed: int) -> int:
    """Return 64 bits that depend on every character of `stream` and every bit of `seed`."""
    return int.from_bytes(hashlib.sha256(f"{stream}\0{seed}".encode()).digest()[:8], "little")


def generator(stream: str, seed: int, index: int) -> np.random.Generator:
    """Return the generator of sample `index`; samples are 2**194 numbers apart."""
    key = np.array([digest64(stream, seed), 0], dtype=np.uint64)
    counter = np.array([0, 0, 0, index], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


@prefetchable
def noises(stream: str, keys: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return the noise (n, *shape) of the samples named by `keys`, int64 (n, 2): seed, index."""
    drawn = torch.empty(len(keys), *shape)
    for row, draw in zip(drawn.numpy(), _generators(stream, keys), strict=True):
        draw.standard_normal(out=row, dtype=np.float32)
    return drawn


@prefetchable
def uniforms(stream: str, keys: Tensor) -> Tensor:
    """Return one float32 number in [0, 1) per sample, (n,)."""
    # what draw.random(dtype=np.float32) makes of 24 bits, for all samples at once: half of the time
    bits = np.array([draw.bit_generator.random_raw() for draw in _generators(stream, keys)], dtype=np.uint64)
    numbers = (bits.astype(np.uint32) >> 8).astype(np.float32) * np.float32(2.0**-24)
    return torch.from_numpy(numbers)


@prefetchable
def chi_squared(stream: str, keys: Tensor, degrees: float) -> Tensor:
    """Return one chi-squared number with so many degrees of freedom per sample, float64 (n,)."""
    numbers = [draw.chisquare(degrees) for draw in _generators(stream, keys)]
    return torch.tensor(numbers, dtype=torch.float64)


def labels(stream: str, keys: Tensor, shares: Sequence[float]) -> Tensor:
    """Return a class for each sample, int64 (n,), each class as often as its share says.

    A sample's class is where its point of a golden-ratio sequence falls among the shares, laid end to end.
    Any samples of one seed that follow one another therefore hold each class nearly as often as its share
    (Weyl 1916; off by the order of log n of n samples, where independent draws are off by sqrt n).

    Args:
        stream: names the numbers; two streams never share any.
        keys: int64 (n, 2): seed, index.
        shares: the share of each class; one of share 0 never comes.

    Returns:
        The number of each sample's class.
    """
    ends = np.cumsum(np.asarray(shares, dtype=np.float64))
    places = _spread(f"{stream} label", keys)
    return torch.from_numpy(np.searchsorted(ends / ends[-1], places, side="right"))


def rows(stream: str, keys: Tensor, count: int) -> Tensor:
    """Return a row of a table of `count` for each sample, int64 (n,), all rows as often, as with `labels`."""
    return torch.from_numpy((_spread(f"{stream} row", keys) * count).astype(np.int64))


def _spread(stream: str, keys: Tensor) -> np.ndarray:
    """Return the points of a golden-ratio sequence, in [0, 1), float64 (n,), that begins at random."""
    starts = {seed: digest64(stream, seed) for seed in keys[:, 0].unique().tolist()}
    first = np.array([starts[seed] for seed in keys[:, 0].tolist()], dtype=np.uint64)
    points = first + keys[:, 1].numpy().astype(np.uint64) * np.uint64(GOLDEN)  # modulo 2**64
    return (points >> np.uint64(11)) / 2.0**53  # below 1, exactly


def keys_of(seed: int, start: int, stop: int) -> Tensor:
    """Return the keys (n, 2) of the samples start <= index < stop."""
    index = torch.arange(start, stop)
    return torch.stack([torch.full_like(index, seed), index], dim=1)


def keys_of_update(keys: Tensor, number: int) -> Tensor:
    """Return the keys, int64 (n, 2), for update `number` of a step; update 0 has the keys themselves."""
    if number == 0:
        return keys
    seeds, which = keys[:, 0].unique(return_inverse=True)
    own = torch.tensor([digest64(f"turn {number}", seed) >> 1 for seed in seeds.tolist()])  # 63 bits
    return torch.stack([own[which], keys[:, 1]], dim=1)


def permutation(stream: str, seed: int, epoch: int, n: int) -> np.ndarray:
    """Return the order, int64 (n,), in which pass number `epoch` visits n items."""
    return generator(stream, seed, epoch).permutation(n)


def _fresh(key: list[int], counter: list[int]) -> dict[str, Any]:
    """Return the state of a Philox that has drawn nothing; numpy reads lists twice as fast as its arrays."""
    numbers = {"key": key, "counter": counter}
    rest = {"buffer": [0, 0, 0, 0], "buffer_pos": 4, "has_uint32": 0, "uinteger": 0}
    return {"bit_generator": "Philox", "state": numbers, **rest}


class _Own(threading.local):
    """The generator of a thread."""

    def __init__(self) -> None:
        self.draw = np.random.Generator(np.random.Philox())


_OWN = _Own()


def _generators(stream: str, keys: Tensor) -> Iterator[np.random.Generator]:
    """Yield what `generator` returns for each key: one object, reset, which costs less than making it."""
    draw = _OWN.draw
    bits, key, counter = draw.bit_generator, [0, 0], [0, 0, 0, 0]
    state = _fresh(key, counter)
    pairs = keys.tolist()
    digests = {seed: digest64(stream, seed) for seed in {seed for seed, _ in pairs}}
    for seed, counter[3] in pairs:
        key[0] = digests[seed]
        bits.state = state
        yield draw
