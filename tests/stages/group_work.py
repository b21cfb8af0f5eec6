"""Work for the processes of a training, which import it by its name."""

import os
import signal
import time
from pathlib import Path

import torch.distributed as dist
from safetensors import SafetensorError

from fewstep.errors import UserError
from fewstep.training.memory import explained


def report(progress):
    """Report what a training would; return rank and number of processes."""
    progress.start("train", 4, done=1)
    progress.advance(loss=0.5)
    progress.measure(1, loss=0.5)
    progress.note("done")
    return dist.get_rank(), dist.get_world_size()


def refuse(progress):
    raise UserError("the batch is odd")


def second_refuses(progress):
    if dist.get_rank() == 1:
        raise UserError("there is no such model")
    dist.barrier()


def fill(progress):
    """Find the disk full, as safetensors says it."""
    raise SafetensorError("I/O error: No space left on device (os error 28)")


def second_has_no_memory(progress):
    if dist.get_rank() == 1:
        with explained(64):
            raise MemoryError
    time.sleep(60)


def second_dies(progress):
    if dist.get_rank() == 0:
        progress.note(str(os.getpid()))
    dist.barrier()
    if dist.get_rank() == 1:
        os.abort()
    time.sleep(60)


def second_is_killed(progress):
    if dist.get_rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    dist.barrier()


def write_and_wait(progress):
    file = Path(str(dist.get_rank()))
    file.with_suffix(".tmp").write_text(str(os.getpid()))
    file.with_suffix(".tmp").rename(file)
    time.sleep(60)


def ranks(progress):
    """Return the ranks of all processes, which only together they know."""
    found = [None] * dist.get_world_size()
    dist.all_gather_object(found, dist.get_rank())
    return found
