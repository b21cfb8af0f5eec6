"""The time for which a training waits for its batches, with the next window read ahead and without.

Run `python -m benchmarks.read_ahead`. Shards of 2048 images of 3x32x32 in float16 lie on a memory filesystem
of fsspec, each of whose reads takes 0.2 s longer. Batches of 128 are chosen among 16384 images, five windows
in two epochs. A step, which the processor is not needed for, takes 5, 10 or 20 ms.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from fsspec.implementations.memory import MemoryFileSystem

from fewstep import randomness
from fewstep.shards import Batches, Shards, write_shards
from fewstep.shards.ahead import Ahead

SHAPE, SAMPLES, SHARD, WINDOW, BATCH, DELAY = (3, 32, 32), 40960, 2048, 16384, 128, 0.2


def slowed(read: Callable[..., bytes]) -> Callable[..., bytes]:
    """Return a way to read a file that takes longer."""

    def later(*args: Any, **kwargs: Any) -> bytes:
        time.sleep(DELAY)
        return read(*args, **kwargs)

    return later


def measure(url: str, step_seconds: float) -> tuple[float, torch.Tensor]:
    """Take the steps of two epochs; return the share of the time that waits, and sums of all batches."""
    batches = Batches(Shards(url), seed=0, size=BATCH, window=WINDOW)
    waited, sums, began = 0.0, [], time.perf_counter()
    for step in range(2 * SAMPLES // BATCH):
        before = time.perf_counter()
        batch, _ = batches[step]
        waited += time.perf_counter() - before
        sums.append(batch["data"].sum())
        time.sleep(step_seconds)
    return waited / (time.perf_counter() - began), torch.stack(sums)


def main() -> None:
    """Print a line for each duration of a step."""
    torch.set_num_threads(1)

    def make(start: int, stop: int) -> dict[str, torch.Tensor]:
        return {"data": randomness.noises("benchmark", randomness.keys_of(0, start, stop), SHAPE)}

    with tempfile.TemporaryDirectory() as folder:
        write_shards(Path(folder), SAMPLES, SHARD, make, facts={}, dtypes={"data": "float16"})
        for file in Path(folder).iterdir():
            MemoryFileSystem().pipe_file(f"/read_ahead/{file.name}", file.read_bytes())
    url = "memory://read_ahead"
    for milliseconds in (5, 10, 20):
        with patch.object(MemoryFileSystem, "cat_file", slowed(MemoryFileSystem.cat_file)):
            after, sums = measure(url, milliseconds / 1000)
            with patch.object(Ahead, "begin", lambda self, shards: None):
                before, same = measure(url, milliseconds / 1000)
        assert torch.equal(sums, same)
        print(
            f"a step of {milliseconds:2} ms: waits {100 * before:.1f} % of the time without reading ahead, "
            f"{100 * after:.1f} % with it",
            flush=True,
        )


if __name__ == "__main__":
    main()
