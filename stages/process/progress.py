"""Progress as a user sees it: a bar on a terminal, lines elsewhere; and as records for programs."""

import sys
import time
from collections.abc import Callable

from tqdm import tqdm

from fewstep.pace import Pace, texts
from fewstep.secrets import scrub
from stages.process import records

RECORD_EVERY = 3.0  # seconds between records


class Shown:
    """Progress of one stage; see fewstep.progress.Progress for the meaning of its methods."""

    def __init__(
        self, address: str, measured: Callable[[int, dict[str, float]], None] = lambda step, values: None
    ) -> None:
        self.address, self.measured = address, measured
        self.bar: tqdm | None = None
        self.terminal = sys.stderr.isatty()
        self.pace: Pace | None = None

    def start(self, label: str, total: int, *, done: int = 0, unit: str = "step") -> None:
        """Begin a piece of work."""
        self.finish()
        self.label, self.pace = label, Pace(self.address, self.piece(label), total, done=done, unit=unit)
        self.next_record = self.pace.began + RECORD_EVERY
        self.record()
        if done:
            print(f"{self.pace.what}: going on from {unit} {done}/{total}", flush=True)
        if self.terminal:
            self.bar = tqdm(
                total=total,
                initial=done,
                unit=f" {unit}",
                desc=self.pace.what,
                leave=False,
                dynamic_ncols=True,
            )

    def advance(self, units: int = 1, **values: float) -> None:
        """Show that `units` more are done."""
        assert self.pace is not None, "no piece of work was begun"
        self.pace.advance(units, values)
        if self.bar is not None:
            self.bar.set_postfix(texts(self.pace.values), refresh=False)
            self.bar.update(units)
        elif self.pace.line_is_due():  # `finish` prints the last line
            print(self.pace.line(), flush=True)
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
        if self.pace is not None and self.pace.total:
            print(self.pace.line(), flush=True)
            self.record()
        self.pace = None

    def piece(self, label: str) -> str:
        """Return the name of a piece of work, "" if the stage's name says it."""
        return label if label not in (self.address, self.address.partition("@")[0]) else ""

    def record(self) -> None:
        """Write how far the piece of work is; see stages.process.records."""
        assert self.pace is not None
        rate, left = self.pace.rate(), self.pace.total - self.pace.done
        records.add_progress(
            {
                "stage": self.address,
                "label": self.label,
                "unit": self.pace.unit,
                "done": self.pace.done,
                "total": self.pace.total,
                "seconds_left": left / rate if rate else None if left else 0.0,
                "values": self.pace.values,
            }
        )
