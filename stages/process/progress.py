"""Progress of a stage: as users see that of a command, and as records for programs."""

import sys
import time
from collections.abc import Callable

from tqdm import tqdm

from fewstep.command_progress import CommandProgress
from stages.process import records

RECORD_EVERY = 3.0  # seconds between records


class StageProgress(CommandProgress):
    """Progress of one stage; see fewstep.progress.Progress for the meaning of its methods."""

    def __init__(
        self, address: str, measured: Callable[[int, dict[str, float]], None] = lambda step, values: None
    ) -> None:
        super().__init__(address)
        self.measured = measured

    def start(self, label: str, total: int, *, done: int = 0, unit: str = "step") -> None:
        """Begin a piece of work."""
        super().start(label, total, done=done, unit=unit)
        self.next_record = self.began + RECORD_EVERY
        self.record()

    def advance(self, units: int = 1, **values: float) -> None:
        """Show that `units` more are done."""
        super().advance(units, **values)
        if time.monotonic() >= self.next_record:
            self.next_record = time.monotonic() + RECORD_EVERY
            self.record()

    def measure(self, step: int, **values: float) -> None:
        """Hand numbers to the tracker."""
        self.measured(step, values)

    def finish(self) -> None:
        """End the piece of work that was begun, if any, with a last line."""
        if self.total:
            self.record()
        super().finish()

    def say(self, text: str) -> None:
        """Print a line; a stage has no other result to print."""
        with tqdm.external_write_mode(sys.stdout):
            print(text, flush=True)

    def record(self) -> None:
        """Write how far the piece of work is; see stages.process.records."""
        rate, left = self.rate(), self.total - self.done
        records.add_progress(
            {
                "stage": self.name,
                "label": self.label,
                "unit": self.unit,
                "done": self.done,
                "total": self.total,
                "seconds_left": left / rate if rate else None if left else 0.0,
                "values": self.values,
            }
        )
