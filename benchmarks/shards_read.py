"""Pairs of 3 x 32 x 32, shuffled: read by WebDataset, from plain safetensors files, and by fewstep.

Run `python -m benchmarks.shards_read [pairs]`. Every side reads the same pairs from files that the
system has in memory, on one thread, and delivers float32 batches. The sides take turns, so that other work
on the machine meets them alike; each round opens everything anew and goes through all pairs once, and the
median round counts. The window that pairs are shuffled in is 4096 pairs for fewstep, as large as a
safetensors file; WebDataset's is 2000.

Below it: the same with digests checked, and with noise drawn anew instead of stored.
"""

import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter

import safetensors.torch
import torch
import webdataset
from torch import Tensor

from fewstep import randomness
from fewstep.shards import Batches, Shards, write_shards

SHAPE, BATCH, ROUNDS, WINDOW, PER_SHARD = (3, 32, 32), 128, 5, 4096, 1024
Pairs = dict[str, Tensor]


def make_pairs(start: int, stop: int) -> Pairs:
    noise = randomness.noises("couple", randomness.keys_of(0, start, stop), SHAPE)
    return {"noise": noise, "data": noise.flip(1).tanh()}


def write_webdataset(folder: Path, pairs: Pairs) -> None:
    with webdataset.ShardWriter(f"{folder}/%05d.tar", maxcount=PER_SHARD, verbose=0) as writer:
        for index in range(len(pairs["noise"])):
            writer.write(
                {"__key__": f"{index:08d}", **{f"{n}.npy": t[index].numpy() for n, t in pairs.items()}}
            )


def read_webdataset(folder: Path) -> Iterator[Pairs]:
    files = sorted(map(str, folder.glob("*.tar")))
    records = webdataset.WebDataset(files, shardshuffle=False, empty_check=False).shuffle(2000).decode()
    for noise, data in records.to_tuple("noise.npy", "data.npy").batched(BATCH):
        yield {"noise": torch.as_tensor(noise).float(), "data": torch.as_tensor(data).float()}


def write_safetensors(folder: Path, pairs: Pairs) -> None:
    for start in range(0, len(pairs["noise"]), WINDOW):
        part = {name: tensor[start : start + WINDOW].clone() for name, tensor in pairs.items()}
        safetensors.torch.save_file(part, folder / f"{start:08d}.safetensors")


def read_safetensors(folder: Path) -> Iterator[Pairs]:
    for file in sorted(folder.glob("*.safetensors")):
        pairs = safetensors.torch.load_file(file)
        for rows in torch.randperm(len(pairs["noise"])).split(BATCH):
            yield {name: tensor[rows].float() for name, tensor in pairs.items()}


def write_fewstep(folder: Path, pairs: Pairs) -> None:
    dtypes = {name: str(tensor.dtype).removeprefix("torch.") for name, tensor in pairs.items()}

    def part(start: int, stop: int) -> Pairs:
        return {name: tensor[start:stop].float() for name, tensor in pairs.items()}

    write_shards(folder, len(pairs["noise"]), PER_SHARD, part, facts={}, dtypes=dtypes)


def read_fewstep(folder: Path) -> Iterator[Pairs]:
    shards = Shards(folder, check=False)
    batches = Batches(shards, seed=0, size=BATCH, window=WINDOW)
    for step in range(shards.samples // BATCH):
        yield batches[step][0]


def seconds(read: Callable[[], Iterator[Pairs]], pairs: int) -> float:
    """Return the time to go through all pairs once."""
    began, seen = perf_counter(), 0
    for batch in read():
        assert batch["noise"].dtype == torch.float32
        seen += len(batch["noise"])
    spent = perf_counter() - began
    assert pairs - BATCH < seen <= pairs
    return spent


def measure(folder: Path, pairs: Pairs) -> None:
    """Print what each side reads in a second."""
    sides = {}
    for name, write, read in (
        ("webdataset", write_webdataset, read_webdataset),
        ("safetensors", write_safetensors, read_safetensors),
        ("fewstep", write_fewstep, read_fewstep),
    ):
        (folder / name).mkdir(parents=True)
        write(folder / name, pairs)
        sides[name] = partial(read, folder / name)
    count = len(pairs["noise"])
    spent = {name: [] for name in sides}
    for _ in range(ROUNDS):
        for name, read in sides.items():
            spent[name].append(seconds(read, count))
    rate = {name: count / median(times) for name, times in spent.items()}
    for name in sides:
        print(name, rate[name], [round(count / t) for t in spent[name]])
    print("ratios", rate["fewstep"] / rate["webdataset"], rate["fewstep"] / rate["safetensors"])


def main() -> None:
    torch.set_num_threads(1)
    count = int(sys.argv[1]) if sys.argv[1:] else 20_480
    pairs = make_pairs(0, count)
    for dtype in (torch.float16, torch.float32):
        with tempfile.TemporaryDirectory() as folder:
            measure(Path(folder), {name: tensor.to(dtype) for name, tensor in pairs.items()})


if __name__ == "__main__":
    main()
