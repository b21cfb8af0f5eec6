"""The Ray cluster of a stage: that of RAY_ADDRESS, or one for the time of the stage on this machine."""

import logging
import os
import socket
from typing import Any

from fewstep.errors import UserError
from fewstep.lazy import lazy_imports
from fewstep.secrets import without_secrets
from stages.process.device import device
from stages.process.environment import THREADS
from stages.workers.machine import cores

with lazy_imports():
    import ray

if os.environ.get("RAY_ADDRESS"):  # else Ray would try 20 times, 40 seconds each
    os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "1")

REACH = 20.0  # seconds in which a cluster must take a connection


def connect() -> None:
    """Connect to the cluster, and tell it the environment of the workers."""
    address = os.environ.get("RAY_ADDRESS") or "local"
    here: dict[str, Any] = {"num_cpus": cores(), "include_dashboard": False} if address == "local" else {}
    try:
        if ":" in address:  # Ray takes long to say that nobody is there
            host, _, port = address.rpartition(":")
            socket.create_connection((host.strip("[]"), int(port)), timeout=REACH).close()
        ray.init(
            address,
            **here,
            logging_level=logging.ERROR,
            log_to_driver=False,
            runtime_env={"env_vars": environment()},
        )
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise UserError(
            f"can't connect to a Ray cluster at RAY_ADDRESS {address} ({error}); start one in the project's "
            "folder with `ray start --head` and the RAY_AUTH_MODE that is set here, or unset RAY_ADDRESS to "
            "use this machine alone"
        ) from None


def environment() -> dict[str, str]:
    """Return what of the stage's environment the workers get; Ray shows it to all, so it holds no secrets."""
    passed = {name: value for name, value in os.environ.items() if name.startswith("FEWSTEP_")}
    passed = without_secrets(passed)
    passed |= {name: os.environ[name] for name in (*THREADS, "DVC_ROOT") if name in os.environ}
    path = os.pathsep.join([".", *filter(None, [os.environ.get("PYTHONPATH")])])  # from where Ray was started
    return passed | {"PYTHONPATH": path, "FEWSTEP_DEVICE": device().partition(":")[0]}
