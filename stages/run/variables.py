"""Variables of the environment that a stage reads late, or not at all: refused when any stage starts.

A chain would come to them after hours, since its first stages need no workers.
"""

from stages.artifacts.scratch import Scratch
from stages.process import again
from stages.sampling.shared_place import shared_place
from stages.tracking import tracking
from stages.workers import machine


def must_be_right() -> None:
    """Ask those that read the variables of workers, scratch, shards, tracking and of making results again.

    Raises:
        UserError: if one of them can't be.
    """
    machine.backend()
    machine.workers(default=1)
    shared_place()
    Scratch.must_be_usable()
    tracking.wanted()
    again.must_be_right()
