"""What this machine has for workers, and what the environment asks for: back end, workers, devices, cores."""

import math
import os
from importlib.util import find_spec
from pathlib import Path

from fewstep import variables
from fewstep.errors import UserError
from fewstep.lazy import lazy_imports
from fewstep.registry import unknown
from stages.process.device import device

with lazy_imports():
    import torch

BACKENDS = ["processes", "ray"]
CGROUPS = Path("/sys/fs/cgroup")


def backend() -> str:
    """Return who works: FEWSTEP_BACKEND, or processes.

    Raises:
        UserError: if there is no such back end, Ray is not installed, or RAY_ADDRESS is that of its client.
    """
    name = os.environ.get("FEWSTEP_BACKEND", "processes")
    if name not in BACKENDS:
        raise UserError(f"FEWSTEP_BACKEND: {unknown('back end', name, BACKENDS)}")
    if name == "ray" and find_spec("ray") is None:
        raise UserError("FEWSTEP_BACKEND ray needs Ray: pip install 'fewstep[ray]'")
    if name == "ray" and (address := os.environ.get("RAY_ADDRESS", "")).startswith("ray://"):
        host = address.removeprefix("ray://").rpartition(":")[0]
        raise UserError(
            f"RAY_ADDRESS {address} is for Ray's client, which stages do not use; name the cluster by the "
            f"address that `ray start --head` printed, such as {host}:6379"
        )
    return name


def places() -> list[str]:
    """Return the devices of the processes to start: one a core, one a GPU, or FEWSTEP_WORKERS over these."""
    where = device()
    every = [f"cuda:{gpu}" for gpu in range(torch.cuda.device_count())] if where == "cuda" else [where]
    count = workers(default=cores() if where == "cpu" else len(every))
    return [every[number % len(every)] for number in range(count)]


def workers(*, default: int) -> int:
    """Return how many workers to use: FEWSTEP_WORKERS, or `default`.

    Raises:
        UserError: if FEWSTEP_WORKERS is no number from 1.
    """
    return variables.count("FEWSTEP_WORKERS", "processes", default=default)


def cores() -> int:
    """Return how many cores this process may use; a container may be allowed less than it sees."""
    # macOS knows no affinity
    seen = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(seen, quota(CGROUPS))))


def quota(cgroups: Path) -> float:
    """Return the number of cores that a container's control groups allow, of either version of Linux's."""
    for files in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            time, period = " ".join((cgroups / file).read_text() for file in files).split()
        except (OSError, ValueError):
            continue
        if time not in ("max", "-1"):
            return int(time) / int(period)
    return math.inf


def memory_left(cgroups: Path) -> float:
    """Return the bytes that a container's control groups still allow, of either version of Linux's.

    Cached files that were not read for a while count as free: the kernel gives their memory back first.
    """
    for folder, names, idle in (
        (cgroups, ("memory.max", "memory.current"), "inactive_file"),
        (cgroups / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes"), "total_inactive_file"),
    ):
        try:
            allowed, used = (int((folder / name).read_text()) for name in names)
            kinds = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            return max(0, allowed - used + int(kinds[idle]))
        except (OSError, ValueError, KeyError):  # "max" is no limit
            continue
    return math.inf
