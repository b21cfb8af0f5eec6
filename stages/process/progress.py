"""Progress as a user sees it: a bar on a terminal, lines elsewhere; and as records for programs."""

import sys
import time
from collections.abc import Callable

from tqdm import tqdm

from fewstep.secrets import scrub
from stages.process import records

FIRST_LINE, EVERY = 3.0, 15.0  # seconds to the first line of a piece of work, and between lines
RECORD_EVERY = 3.0  # seconds between records


class Shown:
    """Progress of one stage; see fewstep.progress.Progress for the meaning of its methods."""

    def __init__(
        self, address: str, measured: Callable[[int, dict[str, float]], None] = lambda step, values: None
    ) -> None:
        self.address, self.measured = address, measured
        self.bar: tqdm | None = None
        self.terminal = sys.stderr.isatty()
        self.total = 0
        self.values: dict[str, float] = {}

    def start(self, label: str, total: int, *, done: int = 0, unit: str = "step") -> None:
        """Begin a piece of work."""
        self.finish()
        self.label, self.total, self.done, self.unit = label, total, done, unit
        self.done_before, self.began, self.values = done, time.monotonic(), {}
        self.next_line, self.next_record = self.began + FIRST_LINE, self.began + RECORD_EVERY
        self.record()
        if done:
            print(f"{self.what()}: going on from {unit} {done}/{total}", flush=True)
        if self.terminal:
            self.bar = tqdm(
                total=total, initial=done, unit=f" {unit}", desc=self.what(), leave=False, dynamic_ncols=True
            )

    def advance(self, units: int = 1, **values: float) -> None:
        """Show that `units` more are done."""
        self.done += units
        self.values = values or self.values
        if self.bar is not None:
            self.bar.set_postfix(shown(self.values), refresh=False)
            self.bar.update(units)
        elif self.done < self.total and time.monotonic() >= self.next_line:  # `finish` prints the last line
            self.next_line = time.monotonic() + EVERY
            print(self.line(), flush=True)
        if time.monotonic() >= self.next_record:
            self.next_record = time.monotonic() + RECORD_EVERY
            self.record()

    def measure(self, step: int, **values: float) -> None:
        """Hand numbers to the tracker."""
        self.measured(step, values)

    def note(self, text: str) -> None:
        """Say one line."""
        with tqdm.external_write_mode(sys.stdout):
            print(f"{self.address}: {scrub(text)}", flush=True)

    def finish(self) -> None:
        """End the piece of work that was begun, if any, with a last line."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None
        if self.total:
            print(self.line(), flush=True)
            self.record()
        self.total = 0

    def what(self) -> str:
        """Name the work: the stage, and the piece if the stage's name doesn't say it."""
        piece = self.label if self.label not in ("", self.address, self.address.partition("@")[0]) else ""
        return f"{self.address}: {piece}" if piece else self.address

    def record(self) -> None:
        """Write how far the piece of work is; see stages.process.records."""
        rate, left = self.rate(), self.total - self.done
        records.add_progress(
            {
                "stage": self.address,
                "label": self.label,
                "unit": self.unit,
                "done": self.done,
                "total": self.total,
                "seconds_left": left / rate if rate else None if left else 0.0,
                "values": self.values,
            }
        )

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
        parts += [f"{name} {value}" for name, value in shown(self.values).items()]
        parts += [f"{rate:.3g} {self.unit}/s"]
        left = self.total - self.done
        parts += [f"{clock(left / rate)} left" if left and rate else f"{clock(seconds)} in all"]
        separator = ", " if self.what() != self.address else ": "
        return self.what() + separator + ", ".join(parts)


def shown(values: dict[str, float]) -> dict[str, str]:
    """Return values as short texts."""
    return {name: f"{value:.3g}" for name, value in values.items()}


def clock(seconds: float) -> str:
    """Return a duration such as 0:39 or 2:05:00."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
