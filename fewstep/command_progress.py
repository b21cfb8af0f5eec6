"""Progress of a command: a bar on a terminal, lines now and then elsewhere, beside what it prints."""

import shutil
import sys
import time

from fewstep.pace import Pace
from fewstep.secrets import scrub

CELLS = 20
REDRAW = 0.1  # seconds from one state of the bar to the next


class CommandProgress:
    """Progress of one command, on the standard error stream, until the block ends that it is opened by.

    See fewstep.progress.Progress for the meaning of its methods.
    """

    def __init__(self, command: str) -> None:
        self.command = command
        self.pace: Pace | None = None
        self.terminal = sys.stderr.isatty()
        self.drawn = -REDRAW

    def __enter__(self) -> "CommandProgress":
        return self

    def __exit__(self, *failure: object) -> None:
        self.finish()

    def start(self, label: str, total: int, *, done: int = 0, unit: str = "step") -> None:
        """Begin a piece of work."""
        self.finish()
        self.pace = Pace(self.command, label, total, done=done, unit=unit)
        self.drawn = -REDRAW
        self._show()

    def advance(self, units: int = 1, **values: float) -> None:
        """Show that `units` more are done."""
        assert self.pace is not None, "no piece of work was begun"
        self.pace.advance(units, values)
        self._show()

    def measure(self, step: int, **values: float) -> None:
        """Numbers of a step are for trackers, and a command has none."""

    def note(self, text: str) -> None:
        """Say one line."""
        self._say(f"{self.command}: {scrub(text)}")

    def finish(self) -> None:
        """End the piece of work that was begun, if any, with a last line."""
        if self.pace is not None:
            self._say(self.pace.line())
        self.pace = None

    def _show(self) -> None:
        assert self.pace is not None
        if not self.terminal:
            if self.pace.line_is_due():
                self._say(self.pace.line())
        elif time.monotonic() - self.drawn >= REDRAW:
            self.drawn = time.monotonic()
            filled = "#" * (CELLS * self.pace.done // max(self.pace.total, 1))
            text = f"[{filled:{CELLS}}] {self.pace.line()}"
            columns = (
                shutil.get_terminal_size().columns - 1
            )  # in the last one, some terminals begin a new line
            print(f"\r\x1b[K{text[:columns]}", end="", file=sys.stderr, flush=True)

    def _say(self, text: str) -> None:
        bar_away = "\r\x1b[K" if self.terminal else ""
        print(bar_away + text, file=sys.stderr, flush=True)
