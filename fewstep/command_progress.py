"""Progress of a command as a user sees it: a bar on a terminal, lines now and then elsewhere."""

import sys
import time

from tqdm import tqdm

from fewstep.secrets import scrub

FIRST_LINE, EVERY = 3.0, 15.0  # seconds to the first line of a piece of work, and between lines


class CommandProgress:
    """Progress of one command, beside what it prints, until the block ends that it is opened by.

    See fewstep.progress.Progress for the meaning of its methods.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.bar: tqdm | None = None
        self.terminal = sys.stderr.isatty()
        self.total = 0
        self.values: dict[str, float] = {}

    def __enter__(self) -> "CommandProgress":
        return self

    def __exit__(self, *failure: object) -> None:
        self.finish()

    def start(self, label: str, total: int, *, done: int = 0, unit: str = "step") -> None:
        """Begin a piece of work."""
        self.finish()
        self.label, self.total, self.done, self.unit = label, total, done, unit
        self.done_before, self.began, self.values = done, time.monotonic(), {}
        self.next_line = self.began + FIRST_LINE
        if done:
            self.say(f"{self.what()}: resuming from {unit} {done}/{total}")
        if self.terminal:
            self.bar = tqdm(
                total=total, initial=done, unit=f" {unit}", desc=self.what(), leave=False, dynamic_ncols=True
            )

    def advance(self, units: int = 1, **values: float) -> None:
        """Show that `units` more are done."""
        self.done += units
        self.values = values or self.values
        if self.bar is not None:
            self.bar.set_postfix(texts(self.values), refresh=False)
            self.bar.update(units)
        elif self.done < self.total and time.monotonic() >= self.next_line:  # `finish` prints the last line
            self.next_line = time.monotonic() + EVERY
            self.say(self.line())

    def measure(self, step: int, **values: float) -> None:
        """Numbers of a step are for trackers, and a command has none."""

    def note(self, text: str) -> None:
        """Say one line."""
        self.say(f"{self.name}: {scrub(text)}")

    def finish(self) -> None:
        """End the piece of work that was begun, if any, with a last line."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None
        if self.total:
            self.say(self.line())
        self.total = 0

    def say(self, text: str) -> None:
        """Print a line where it does not get into the command's result, nor into the bar."""
        with tqdm.external_write_mode(sys.stderr):
            print(text, file=sys.stderr, flush=True)

    def what(self) -> str:
        """Name the work: the command, and the piece if the command's name doesn't say it."""
        piece = self.label if self.label not in ("", self.name, self.name.partition("@")[0]) else ""
        return f"{self.name}: {piece}" if piece else self.name

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
        separator = ", " if self.what() != self.name else ": "
        return self.what() + separator + ", ".join(parts)


def texts(values: dict[str, float]) -> dict[str, str]:
    """Return values as short texts."""
    return {name: f"{value:.3g}" for name, value in values.items()}


def clock(seconds: float) -> str:
    """Return a duration such as 0:39 or 2:05:00."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
