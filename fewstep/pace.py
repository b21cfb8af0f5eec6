"""How far a piece of work is and how fast it goes, as lines for people."""

import time
from collections.abc import Mapping

FIRST_LINE, EVERY = 3.0, 15.0  # seconds to the first line of a piece of work, and between lines


class Pace:
    """The pace of a piece of work.

    Args:
        name: Whose work it is, such as a stage.
        piece: Which piece, if the name does not say it.
        total: Its units.
        done: Those that an earlier run did, which do not count for the pace.
        unit: What a unit is called.
    """

    def __init__(self, name: str, piece: str, total: int, *, done: int = 0, unit: str = "step") -> None:
        self.what = f"{name}: {piece}" if piece else name
        self.separator = ", " if piece else ": "
        self.total, self.done, self.done_before, self.unit = total, done, done, unit
        self.values: Mapping[str, float] = {}
        self.began = time.monotonic()
        self.next_line = self.began + FIRST_LINE

    def advance(self, units: int, values: Mapping[str, float]) -> None:
        """Count `units` more; `values`, if there are any, are shown instead of those before."""
        self.done += units
        self.values = values or self.values

    def line_is_due(self) -> bool:
        """Return whether it is time for a line before the last one, and wait for the next from now."""
        if self.done >= self.total or time.monotonic() < self.next_line:
            return False
        self.next_line = time.monotonic() + EVERY
        return True

    def seconds(self) -> float:
        """Return how long the piece of work has taken."""
        return max(time.monotonic() - self.began, 1e-9)

    def rate(self) -> float:
        """Return the units done in a second, without those that an earlier run did."""
        return (self.done - self.done_before) / self.seconds()

    def line(self) -> str:
        """Return such as `pretrain@base: step 640/1500 (43 %), loss 0.51, 21.9 step/s, 0:39 left`."""
        seconds, rate = self.seconds(), self.rate()
        parts = [f"{self.unit} {self.done}/{self.total} ({100 * self.done / max(self.total, 1):.0f} %)"]
        parts += [f"{name} {value}" for name, value in texts(self.values).items()]
        parts += [f"{rate:.3g} {self.unit}/s"]
        left = self.total - self.done
        parts += [f"{clock(left / rate)} left" if left and rate else f"{clock(seconds)} in all"]
        return self.what + self.separator + ", ".join(parts)


def texts(values: Mapping[str, float]) -> dict[str, str]:
    """Return values as short texts."""
    return {name: f"{value:.3g}" for name, value in values.items()}


def clock(seconds: float) -> str:
    """Return a duration such as 0:39 or 2:05:00."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
