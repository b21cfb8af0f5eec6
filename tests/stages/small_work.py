"""What the tests of workers have them do: functions of a module, which every kind of worker can import."""

import inspect
import os
import signal
import time
from pathlib import Path

from fewstep.errors import UserError

FACTS: list[int] = []  # what `start_worker` was given, in each worker


def start_worker(*facts):
    FACTS[:] = facts


def refuse(*facts):
    raise UserError("there is no such model")


def die(*facts):
    os.kill(os.getpid(), signal.SIGKILL)


def multiply(item):
    time.sleep(0.01 * item)  # the first given are the last done
    return os.getpid(), item * FACTS[0]


def surroundings(item):
    """Where a worker is, in its own words."""
    blocked, handler = signal.pthread_sigmask(signal.SIG_BLOCK, []), signal.getsignal(signal.SIGINT)
    ignores = signal.SIGINT in blocked or handler is signal.SIG_IGN
    return {"device": os.environ["FEWSTEP_DEVICE"], "threads": os.environ["OMP_NUM_THREADS"], "deaf": ignores}


def fail_at_two(item):
    if item == 2:
        raise UserError("two is too much")
    return item


def visit(file):
    """Note that it is worked on: a victim kills the first to do so, guests wait for each other."""
    with open(file, "a") as log:
        log.write(f"{os.getpid()}\n")
    if "victim" in file and len(Path(file).read_text().split()) == 1:
        die()
    while "guest" in file and len(list(Path(file).parent.glob("guest*"))) < 3:
        time.sleep(0.01)
    return os.getpid()


def sleep(file):
    Path(file).write_text(str(os.getpid()))
    time.sleep(60)


def half_an_answer() -> None:
    """Die when half of an answer is sent: its length, and no byte of it."""
    frame = inspect.currentframe()
    while "pipe" not in frame.f_locals:
        frame = frame.f_back
    os.write(frame.f_locals["pipe"].fileno(), (1000).to_bytes(4, "big"))
    os.kill(os.getpid(), signal.SIGKILL)
