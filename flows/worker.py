"""A worker of a pool on this machine, until Ctrl-C."""

import os
import shutil
import signal
import subprocess
import sys
from typing import NoReturn

from flows import CHECKOUT, HOME
from flows.planning.time_limits import stages_at_once
from flows.workers import pools

# In seconds; a worker is offline for the server after three missed heartbeats.
QUICK = {"PREFECT_WORKER_HEARTBEAT_SECONDS": "10", "PREFECT_WORKER_QUERY_SECONDS": "2"}


def limit(pool: str) -> int:
    """Return how many flow runs a worker of a pool may have at once.

    A stage on a GPU uses all GPUs that it sees, and a chain writes dvc.lock, so each is alone.
    """
    return stages_at_once() if pool == "cpu" else 1


def gpus() -> int:
    """Return how many GPUs this process may use."""
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return len([name for name in visible.split(",") if name.strip()])
    if shutil.which("nvidia-smi") is None:
        return 0
    listed = subprocess.run(["nvidia-smi", "--list-gpus"], text=True, capture_output=True)
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines())


def environment(pool: str) -> dict[str, str]:
    """Return the environment of the worker and its flow runs.

    Raises:
        UserError: No server is named.
    """
    pools.address()
    found = QUICK | os.environ | {"FEWSTEP_CHECKOUT": str(CHECKOUT), "PREFECT_HOME": str(HOME)}
    if pool == pools.CHAINS:
        found["FEWSTEP_POOLS"] = "on"  # its chains give their stages to the other pools
    if pool == "gpu" and (count := gpus()) > 1:
        found.setdefault("FEWSTEP_PROCESSES", str(count))
    return found


def become(pool: str, options: tuple[str, ...] = ()) -> NoReturn:
    """Become the worker; `options` are further ones of `prefect worker start`.

    Raises:
        UserError: No server is named, it does not answer, or the pool lets others choose a run's command.
    """
    found = environment(pool)
    pools.check_closed(pool, CHECKOUT)
    # With its type and job, the worker makes the pool if the server has none of that name.
    command = ["worker", "start", "--type", "process", "--base-job-template", str(CHECKOUT / pools.JOB)]
    command += ["--pool", pool, "--limit", str(limit(pool)), *options]
    os.chdir(CHECKOUT)
    # Prefect ends a worker by an interrupt, which a shell has ignored by what it runs in the background.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.execve(sys.executable, [sys.executable, "-m", "prefect", *command], found)
