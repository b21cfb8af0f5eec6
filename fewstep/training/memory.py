"""What is said when the memory does not suffice for a training."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from fewstep.errors import UserError, first_line
from fewstep.training.engine import Engine

# what RuntimeErrors of devices say
NO_MEMORY = ("not enough memory", "can't allocate memory", "cannot allocate memory", "out of memory")


class OutOfMemoryError(UserError):
    """Networks do not fit into the memory."""


@contextmanager
def explained(samples: int) -> Iterator[None]:
    """Turn an error that says that the memory does not suffice into one that says what takes less.

    Args:
        samples: How many a process has in a step.

    Raises:
        OutOfMemoryError: instead of the error of the device.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not has_no_memory(error):
            raise
        raise OutOfMemoryError(f"out of memory ({first_line(error)}). {advice(samples)}") from None


def has_no_memory(error: Exception) -> bool:
    """Return whether an error says that the memory of a device does not suffice."""
    known = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return known or any(words in str(error).lower() for words in NO_MEMORY)


def advice(samples: int) -> str:
    """Return what takes less memory, beginning with what costs no time."""
    engine = Engine.from_environment()
    at_a_time = min(engine.micro_batch or samples, samples)
    ways = []
    if at_a_time > 1:
        ways.append(f"FEWSTEP_MICRO_BATCH={at_a_time // 2} (it is {at_a_time})")
    if not engine.recompute:
        ways.append("FEWSTEP_RECOMPUTE=on, which takes longer")
    ways.append("more devices (FEWSTEP_PROCESSES)")
    if not engine.sharded:
        ways[-1] += " that share the weights (FEWSTEP_SHARD=on)"
    return (
        f"Use {' or '.join(ways)}: results then differ by rounding (and by dropout, if there is any). What "
        "was saved of the training is kept; run the stage again and it goes on from there"
    )
