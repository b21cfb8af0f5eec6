"""Several processes, one a device, as torchrun starts them; alone, everything here does nothing."""

import os
from collections.abc import Iterator, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

BUCKET = 2**23  # numbers in one exchange of gradients


def join(device: torch.device | str = "cpu") -> torch.device:
    """Join the processes that torchrun started beside this one, if any; return this one's device.

    The addresses and ranks come from the environment that torchrun sets; "cuda" becomes the GPU of
    this process, "cuda:1" stays what it is. It returns when all have joined: one that left at once, because
    it found a mistake, would break the joining of others. Joining twice does no harm.
    """
    device = torch.device(device)
    if device.type == "cuda":
        if device.index is None:
            device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
        dist.barrier()
    return device


def rank() -> int:
    """Return this process's number, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def ranks() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def average(tensors: Sequence[Tensor]) -> None:
    """Replace the tensors by their means over all processes, in few exchanges that need little memory."""
    if ranks() == 1:
        return
    for bucket in buckets(tensors):
        flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
        dist.all_reduce(flat)
        flat /= ranks()
        scatter(flat, bucket)


def scatter(flat: Tensor, tensors: Sequence[Tensor]) -> None:
    """Replace the tensors by their parts of `flat`, which holds one after the other."""
    for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))


def buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Yield the tensors in order, as many at a time as have BUCKET numbers together, but one at least."""
    bucket: list[Tensor] = []
    held = 0
    for tensor in tensors:
        if bucket and held + tensor.numel() > BUCKET:
            yield bucket
            bucket, held = [], 0
        bucket.append(tensor)
        held += tensor.numel()
    if bucket:
        yield bucket


def mean(number: float, device: torch.device) -> float:
    """Return the mean of the processes' numbers."""
    tensor = torch.tensor(number, dtype=torch.float64, device=device)
    average([tensor])
    return float(tensor)


def first(numbers: Sequence[float], device: torch.device) -> list[float]:
    """Return the numbers of the first process, in every process; all must give as many."""
    tensor = torch.tensor(numbers, dtype=torch.float64, device=device)
    if ranks() > 1:
        dist.broadcast(tensor, 0)
    return tensor.tolist()


def leave() -> None:
    """Leave the group that `join` joined."""
    if dist.is_initialized():
        dist.destroy_process_group()
