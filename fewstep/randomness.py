"""Randomness that belongs to the sample, not to the batch, the worker or the order of work.

A sample is named by a key (seed, index). Its numbers come from numpy's counter-based Philox
generator, keyed by a 64-bit digest of (stream, seed) with the counter starting at the index, so
they are the same at any batch size and on any worker. Streams such as "couple" or "train" never
share numbers. Torch's own CPU generator can't do this: it keeps only 32 bits of its seed.
"""

import hashlib

import numpy as np
import torch
from torch import Tensor


def digest64(stream: str, seed: int) -> int:
    """Return 64 bits that depend on every character of `stream` and every bit of `seed`."""
    return int.from_bytes(hashlib.sha256(f"{stream}\0{seed}".encode()).digest()[:8], "little")


def generator(stream: str, seed: int, index: int) -> np.random.Generator:
    """Return the generator of sample `index`; samples are 2**192 numbers apart."""
    key = np.array([digest64(stream, seed), 0], dtype=np.uint64)
    counter = np.array([0, 0, 0, index], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


def noise(stream: str, seed: int, index: int, shape: tuple[int, ...]) -> Tensor:
    """Return the standard normal noise, float32 of `shape`, of one sample."""
    return torch.from_numpy(generator(stream, seed, index).standard_normal(shape, dtype=np.float32))


def noises(stream: str, keys: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return the noise (n, *shape) of the samples named by `keys`, int64 (n, 2): seed, index."""
    return torch.stack([noise(stream, seed, index, shape) for seed, index in keys.tolist()])


def uniforms(stream: str, keys: Tensor) -> Tensor:
    """Return one float32 number in [0, 1) per sample, (n,)."""
    numbers = [generator(stream, seed, index).random(dtype=np.float32) for seed, index in keys.tolist()]
    return torch.tensor(numbers, dtype=torch.float32)


def keys_of(seed: int, start: int, stop: int) -> Tensor:
    """Return the keys (n, 2) of the samples start <= index < stop."""
    index = torch.arange(start, stop)
    return torch.stack([torch.full_like(index, seed), index], dim=1)


def permutation(stream: str, seed: int, epoch: int, n: int) -> np.ndarray:
    """Return the order, int64 (n,), in which pass number `epoch` visits n items."""
    return generator(stream, seed, epoch).permutation(n)
