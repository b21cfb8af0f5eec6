"""How long calls take beside each other, so that what else the machine does falls on all of them alike."""

import time
from collections.abc import Callable, Mapping
from statistics import median

import torch


@torch.no_grad()
def milliseconds(calls: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Return the milliseconds of the processor that each call took, by its name, of each round.

    In a round all calls are made in turn; one before the first is not counted.
    """
    found: dict[str, list[float]] = {name: [] for name in calls}
    for counted in [False, *[True] * rounds]:
        for name, call in calls.items():
            began = time.process_time()
            call()
            if counted:
                found[name].append(1000 * (time.process_time() - began))
    return found


def over(times: list[float], others: list[float]) -> float:
    """Return the median over rounds of how many times as long one call took as another in the same round."""
    return median(one / other for one, other in zip(times, others, strict=True))
