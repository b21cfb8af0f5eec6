"""Variables of the environment that a stage reads late, or not at all: refused when any stage starts.

A chain would come to them after hours, since its first stages need no workers.
"""

from fewstep import variables
from fewstep.training.engine import Engine
from stages.artifacts.scratch import Scratch
from stages.process import again
from stages.sampling.shared_place import shared_place
from stages.tracking import tracking
from stages.workers import machine
from stages.workers.distributed import machine_number


def must_be_right() -> None:
    """Ask those that read the variables of workers, scratch, shards, tracking, forced runs and trainings.

    Raises:
        UserError: if one of them can't be.
    """
    machine.backend()
    machine.workers(default=1)
    shared_place()
    Scratch.must_be_usable()
    tracking.wanted()
    again.must_be_right()
    variables.count("FEWSTEP_PROCESSES", "processes", default=1)
    machine_number()
    variables.checkpoint_seconds()
    variables.count("FEWSTEP_PROFILE", "steps", default=None)
    Engine.from_environment()
