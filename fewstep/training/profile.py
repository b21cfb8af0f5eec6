"""Profile: what the time of a few steps of a training goes to, as a table and as a trace."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from fewstep import distributed, variables
from fewstep.files import remove, written_whole
from fewstep.progress import Progress
from fewstep.training.networks import Training
from fewstep.training.phases import PHASES, Clock, timed_by

WARM_UP = 3  # steps before those that are recorded: the first ones take longer
OPERATORS = 20  # rows of the table of operators
TABLE, TRACE = "profile.txt", "trace.json.gz"


class StepProfiler:
    """Records steps of a training, if FEWSTEP_PROFILE says how many, in the first of its processes.

    `TABLE` says how long each phase of a step takes, on a device that is waited for after each, and which
    operators take longest; `TRACE` is what torch.profiler recorded, for https://ui.perfetto.dev. The
    results of the training are the same. The last of the steps is followed by a save.

    Raises:
        UserError: if FEWSTEP_PROFILE is no number from 1.
    """

    def __init__(self, folder: Path, training: Training, progress: Progress) -> None:
        self.folder, self.training, self.progress = folder, training, progress
        asked, left = variables.count("FEWSTEP_PROFILE", "steps", default=None), training.settings.steps
        left -= training.step
        if asked and distributed.rank() == 0:
            remove(folder)  # that of an earlier run
        self.steps = min(asked or 0, left)
        self.unrecorded = min(WARM_UP, left - self.steps)
        """Steps before the first that is recorded."""
        self.recorded = 0
        self.clock = Clock(training.device)
        self.seconds = 0.0
        """Of the recorded steps, without the save."""

    @contextmanager
    def of_step(self, save: Callable[[], None]) -> Iterator[None]:
        """Record the step that is taken in this context, if it is one of those; end the last with a save."""
        if self.recorded == self.steps or self.unrecorded:
            yield
            self.unrecorded = max(0, self.unrecorded - 1)
            return
        first = distributed.rank() == 0
        if first and not self.recorded:
            self.profiler = torch.profiler.profile()
            self.profiler.start()
        with timed_by(self.clock):
            began = self.clock.now()
            yield
            self.seconds += self.clock.now() - began
            self.recorded += 1
            if self.recorded == self.steps:
                before = self.clock.seconds.pop("save", 0.0)  # of saves that were due in a step
                self.seconds -= before
                save()
        if first and self.recorded == self.steps:
            self.profiler.stop()
            self._write()

    def _write(self) -> None:
        """Write the table and the trace, and say where they are."""
        self.folder.mkdir(parents=True, exist_ok=True)
        operators = self.profiler.key_averages().table(
            sort_by=f"self_{self.training.device.type}_time_total", row_limit=OPERATORS
        )
        with written_whole(self.folder / TABLE) as temporary:
            temporary.write_text("\n".join([*self.lines(), "", operators]))
        self.profiler.export_chrome_trace(str(self.folder / TRACE))
        self.progress.note(f"{self.lines()[0]}; {self.folder / TABLE} and {TRACE} beside it say what it took")

    def lines(self) -> list[str]:
        """Return the table of phases."""
        last, processes = self.training.step, distributed.ranks()
        whole = self.seconds / self.steps
        lines = [
            f"profile of {self.steps} steps, up to step {last}, of process 1 of {processes} on "
            f"{self.training.device}, {torch.get_num_threads()} threads",
            "",
            f"{'phase':10} {'ms a step':>10} {'share':>6}",
        ]
        known = {name: self.clock.seconds[name] / self.steps for name in PHASES if name != "save"}
        for name, seconds in {**known, "other": whole - sum(known.values()), "step": whole}.items():
            lines.append(f"{name:10} {1000 * seconds:10.2f} {seconds / whole:6.1%}")
        save = 1000 * self.clock.seconds["save"]
        return [*lines, "", f"{'a save':10} {save:10.2f} ms, and it is written while the next steps run"]
