"""Phases: the parts of a training step by name, timed while a profile is made and else only run."""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar

import torch

PHASES = ("data", "forward", "backward", "exchange", "optimiser", "average", "save")
"""In the order of a step."""


class Clock:
    """The seconds of each phase; a phase ends when the device has done what it asked for."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Add the time of what is done in this context, which is a range of that name in a trace, too."""
        began = self.now()
        with torch.profiler.record_function(name):
            yield
            self.seconds[name] += self.now() - began

    def now(self) -> float:
        """Return the time, in seconds, at which the device has nothing left to do."""
        if self.device.type != "cpu":
            torch.get_device_module(self.device).synchronize(self.device)
        return time.perf_counter()


_clock: ContextVar[Clock | None] = ContextVar("clock", default=None)


@contextmanager
def timed_by(clock: Clock) -> Iterator[None]:
    """Have a clock time the phases that are entered in this context."""
    token = _clock.set(clock)
    try:
        yield
    finally:
        _clock.reset(token)


def phase(name: str) -> AbstractContextManager[None]:
    """Return the context of a phase."""
    assert name in PHASES
    clock = _clock.get()
    return nullcontext() if clock is None else clock.timed(name)
