"""Processes that begin with torch loaded: to import it in each would take seconds.

They are forked from one that has it and no threads, and are as real as others: each can be killed.
"""

import os
import sys
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path

CONTEXT = get_context("forkserver")
LOADED = ("training.loop", "checkpoint", "lora", "methods.consistency", "methods.endpoint", "methods.sim")
SHARDING = ("torch.distributed.fsdp", "torch._dynamo")  # which the first sharded tensor imports
CONTEXT.set_forkserver_preload([*(f"fewstep.{name}" for name in LOADED), *SHARDING])


def begin(work: Callable, *facts: object, said: Path | None = None, **environment: str) -> BaseProcess:
    """Begin `work(*facts)` in a process with these variables; a file, if given, gets what it says.

    `work` is a function of a module, which is imported there.
    """
    process = CONTEXT.Process(target=_run, args=(work, facts, environment, said), daemon=True)
    process.start()
    return process


def end_of(process: BaseProcess, seconds: float = 300) -> int | None:
    """Wait for the end of a process; return its exit code."""
    process.join(seconds)
    return process.exitcode


def _run(work: Callable, facts: tuple, environment: dict[str, str], said: Path | None) -> None:
    os.environ |= environment
    if said:
        os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT), sys.stderr.fileno())
    import torch

    torch.set_num_threads(1)
    work(*facts)
