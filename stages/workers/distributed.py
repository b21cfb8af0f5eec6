"""A training shared by several processes of this machine: the stage is the first, and starts the others."""

import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from threading import Event, Thread
from typing import Any

from fewstep.errors import UserError
from stages.process.parent import follow_parent

LOCALHOST = "127.0.0.1"


def refuse_torchrun() -> None:
    """Stop a stage that was started several times over: the copies would wait for its lock one by one.

    Raises:
        UserError: if the environment is that of torchrun.
    """
    count = os.environ.get("WORLD_SIZE", "1")
    if count != "1":
        raise UserError(
            f"a stage starts its other processes itself: instead of torchrun (WORLD_SIZE is {count}), "
            f"set FEWSTEP_PROCESSES={count}"
        )


def processes() -> int:
    """Return how many processes share a training: FEWSTEP_PROCESSES, or one.

    Raises:
        UserError: if it is no number from 1, or more than there are GPUs to train on.
    """
    import torch

    from stages.process.device import device

    asked = os.environ.get("FEWSTEP_PROCESSES", "1")
    if not (asked.isdecimal() and int(asked)):
        raise UserError(f"FEWSTEP_PROCESSES must be a number of processes from 1, got {asked!r}")
    count, where = int(asked), device()
    if count > 1 and where != "cpu" and (where != "cuda" or count > torch.cuda.device_count()):
        raise UserError(
            f"FEWSTEP_PROCESSES {count} needs a GPU for each process, of {torch.cuda.device_count()} here, "
            f"and FEWSTEP_DEVICE to be cuda, not one of them; it is {where}"
        )
    return count


@contextmanager
def beside(count: int, work: Callable[..., Any], *facts: Any) -> Iterator[None]:
    """Let `count` - 1 other processes do `work(*facts)`, all of them and this one joined in a group."""
    from fewstep.distributed import join, leave
    from stages.process.device import device

    if count == 1:
        yield
        return
    group = {"MASTER_ADDR": LOCALHOST, "MASTER_PORT": free_port(), "WORLD_SIZE": str(count)}
    context = get_context("spawn")  # a forked torch may hang
    others = [
        context.Process(target=begin, args=(place(group, rank), work, facts), daemon=True)
        for rank in range(1, count)
    ]
    before, over = dict(os.environ), Event()
    os.environ.update(place(group, 0))
    try:
        for other in others:
            other.start()
        Thread(target=die_with, args=(others, over), daemon=True).start()
        join(device())
        yield
        for other in others:
            other.join()
    finally:
        over.set()
        for other in others:
            other.kill()
        leave()
        for name in place(group, 0):
            del os.environ[name]
        os.environ.update(before)


def die_with(others: list[BaseProcess], over: Event) -> None:
    """Kill this process if one of the others dies before it is over: the group would wait for it."""
    waiting = {other.sentinel: other for other in others}
    while waiting:
        for sentinel in wait(list(waiting)):
            other = waiting.pop(sentinel)
            other.join()
            if other.exitcode and not over.is_set():
                print(f"a process of this training ended with {other.exitcode}", flush=True)
                os.kill(os.getpid(), signal.SIGKILL)


def place(group: dict[str, str], rank: int) -> dict[str, str]:
    """Return what a process of the group is told by its environment, as torchrun would."""
    return group | {"RANK": str(rank), "LOCAL_RANK": str(rank)}


def begin(environment: dict[str, str], work: Callable[..., Any], facts: tuple[Any, ...]) -> None:
    """Join the group in one of the other processes, which ends with the stage, and do its work."""
    from fewstep.distributed import join, leave
    from stages.process.device import device

    follow_parent()
    os.environ.update(environment)
    join(device())
    with suppress(UserError):  # the stage says the same
        work(*facts)
    leave()


def free_port() -> str:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind((LOCALHOST, 0))
        return str(probe.getsockname()[1])
