"""Which batch makes samples fastest, found by trying; which is used is a setting, as it changes rounding."""

from collections.abc import Callable

from fewstep.training.memory import has_no_memory

GAIN = 0.95  # of the time of a sample, which another batch must not exceed to be better


def fastest_batch(seconds: Callable[[int], float], asked: int, most: int) -> tuple[int, float]:
    """Return a batch and the seconds of a sample in it: that which was asked for, unless another is faster.

    It is doubled while that helps, there is memory, and it has no more than `most` samples; if doubling does
    not help at all, it is halved.

    Args:
        seconds: Returns those of a sample in a batch of so many.
        asked: The batch of the setting, for which there is memory.
        most: Samples that can be in a batch.
    """
    least = seconds(asked)
    for factor in (2, 0.5):
        best = asked
        while 1 <= (other := int(best * factor)) <= most:
            if (found := _seconds(seconds, other)) > GAIN * least:
                break
            best, least = other, found
        if best != asked:
            return best, least
    return asked, least


def _seconds(seconds: Callable[[int], float], size: int) -> float:
    """Return the seconds of a sample, infinity if there is no memory for such a batch."""
    try:
        return seconds(size)
    except (MemoryError, RuntimeError) as error:
        if not has_no_memory(error):
            raise
        return float("inf")
