"""Pairs of 3 x 32 x 32, shuffled: read by WebDataset, from plain safetensors files, and by fewstep.

Run `python -m benchmarks.shards_read [pairs]`. Every side reads the same pairs, from files that the system
holds in memory, on one thread, and delivers float32 batches of 128. The sides take turns, so that other work
on the machine meets them alike; in a round each side goes through all pairs once, and the median round
counts. Pairs are shuffled among 4096, those of one safetensors file or of one window of fewstep's; among
2000 by WebDataset, which has a pair a record and shuffles by itself.

A round of fewstep's is an epoch of one training. A first epoch takes longer, for the system must find memory
for the window, and digests are compared if that is asked for; in these lines all is opened again in each
round. Last, noise is drawn again, which isn't stored then.
"""

import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from pathlib import Path
from statistics import median
from time import perf_counter

import safetensors.torch
import torch
import webdataset
from torch import Tensor

from fewstep import randomness
from fewstep.model import ModelConfig, build
from fewstep.shards import Batches, Shards, drawn, write_shards

SHAPE, BATCH, ROUNDS, PER_SHARD, WINDOW = (3, 32, 32), 128, 5, 1024, 4096
Pairs = dict[str, Tensor]


def draw_noise(start: int, stop: int) -> Tensor:
    return randomness.noises("couple", randomness.keys_of(0, start, stop), SHAPE)


def write_webdataset(folder: Path, pairs: Pairs) -> None:
    with webdataset.ShardWriter(f"{folder}/%05d.tar", maxcount=PER_SHARD, verbose=0) as writer:
        for index in range(len(pairs["noise"])):
            fields = {f"{name}.npy": tensor[index].numpy() for name, tensor in pairs.items()}
            writer.write({"__key__": f"{index:08d}", **fields})


def read_webdataset(folder: Path) -> Iterator[Pairs]:
    files = sorted(map(str, folder.glob("*.tar")))
    records = webdataset.WebDataset(files, shardshuffle=False).shuffle(2000).decode()
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
    write_shards(
        folder, len(pairs["noise"]), PER_SHARD, lambda a, b: part(pairs, a, b), facts={}, dtypes=dtypes
    )


def write_lean(folder: Path, pairs: Pairs) -> None:
    def make(start: int, stop: int) -> Pairs:
        return part(pairs, start, stop) | {"noise": draw_noise(start, stop)}

    dtypes = {"data": str(pairs["data"].dtype).removeprefix("torch.")}
    fields = {"noise": drawn("couple", 0, 0, SHAPE)}
    write_shards(folder, len(pairs["noise"]), PER_SHARD, make, facts={}, dtypes=dtypes, drawn=fields)


def part(pairs: Pairs, start: int, stop: int) -> Pairs:
    return {name: tensor[start:stop].float() for name, tensor in pairs.items()}


def open_fewstep(folder: Path, *, check: bool = False) -> Batches:
    return Batches(Shards(folder, check=check), seed=0, size=BATCH, window=WINDOW)


def epochs(batches: Batches) -> Iterator[Iterator[Pairs]]:
    """Yield epoch after epoch."""
    for epoch in count():
        first, stop = (number * batches.shards.samples // BATCH for number in (epoch, epoch + 1))
        yield (batches[step][0] for step in range(first, stop))


def read_first_epoch(folder: Path, *, check: bool) -> Iterator[Pairs]:
    yield from next(epochs(open_fewstep(folder, check=check)))


def seconds(read: Callable[[], Iterator[Pairs]]) -> float:
    """Return the time to go through all pairs once."""
    began = perf_counter()
    for batch in read():
        assert batch["noise"].dtype == batch["data"].dtype == torch.float32
    return perf_counter() - began


def compare(folder: Path, pairs: Pairs) -> None:
    """Write the pairs for every side, and print how fast they are read."""
    writers = {"webdataset": write_webdataset, "safetensors": write_safetensors, "fewstep": write_fewstep}
    for name, write in (writers | {"lean": write_lean}).items():
        (folder / name).mkdir()
        write(folder / name, pairs)
    fewstep, lean = (epochs(open_fewstep(folder / files)) for files in ("fewstep", "lean"))
    sides: dict[str, tuple[str, Callable[[], Iterator[Pairs]]]] = {
        "webdataset": ("webdataset", partial(read_webdataset, folder / "webdataset")),
        "safetensors": ("safetensors", partial(read_safetensors, folder / "safetensors")),
        "fewstep": ("fewstep", partial(next, fewstep)),
        "  first epoch": ("fewstep", partial(read_first_epoch, folder / "fewstep", check=False)),
        "  digests compared": ("fewstep", partial(read_first_epoch, folder / "fewstep", check=True)),
        "  noise drawn": ("lean", partial(next, lean)),
    }
    spent: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(ROUNDS):
        for side, (_, read) in sides.items():
            spent[side].append(seconds(read))
    total = len(pairs["noise"])
    rates = {side: total / median(times) for side, times in spent.items()}
    print(f"{total} pairs in {pairs['data'].dtype}  pairs/s    MB/s  bytes/pair  x webdataset  x safetensors")
    for side, (files, _) in sides.items():
        stored = sum(file.stat().st_size for file in (folder / files).iterdir()) / total
        ratios = rates[side] / rates["webdataset"], rates[side] / rates["safetensors"]
        speed = f"{rates[side]:12.0f} {rates[side] * stored / 1e6:7.0f} {stored:11.0f}"
        print(f"{side:26} {speed} {ratios[0]:13.1f} {ratios[1]:14.2f}")


def network_calls() -> float:
    """Return the samples a second of one call of a small network, of which a pair takes dozens."""
    unet = {"name": "unet", "width": 32, "multipliers": [1, 2, 2]}
    model, noise = (
        build(ModelConfig(architecture=unet, shape=SHAPE), seed=0).eval(),
        torch.randn(BATCH, *SHAPE),
    )
    with torch.no_grad():
        return BATCH / min(timed(lambda: model(noise, torch.zeros(BATCH))) for _ in range(3))


def timed(work: Callable[[], object]) -> float:
    began = perf_counter()
    work()
    return perf_counter() - began


def main() -> None:
    torch.set_num_threads(1)
    total = int(sys.argv[1]) if sys.argv[1:] else 20_480
    drawing = BATCH / min(timed(lambda: draw_noise(0, BATCH)) for _ in range(20))
    print(f"samples/s: noise drawn {drawing:.0f}, one call of a U-net of width 32 {network_calls():.0f}")
    noise = draw_noise(0, total)
    pairs = {"noise": noise, "data": noise.flip(1).tanh()}
    for dtype in (torch.float16, torch.float32):
        with tempfile.TemporaryDirectory() as folder:
            compare(Path(folder), {name: tensor.to(dtype) for name, tensor in pairs.items()})


if __name__ == "__main__":
    main()
