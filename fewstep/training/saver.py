"""Saver: the training on the disk, at intervals that follow what a save costs."""

import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from fewstep import distributed
from fewstep.errors import UserError
from fewstep.training.networks import Training
from fewstep.training.phases import phase
from fewstep.training.sharding import whole
from fewstep.training.state import write_state
from fewstep.training.watch import Watch
from fewstep.variables import checkpoint_seconds

ASKED = 8  # steps after which the first of several processes is asked again whether to save
SHARE = 0.03  # of the time, which saving takes at most


class Saver:
    """Copies the training between two steps, and writes the copy while the next steps run.

    The environment variable FEWSTEP_CHECKPOINT_SECONDS (default 20) is the time between two saves, which is
    longer where saving would take more than `SHARE` of the time. At 0 each step waits for a save of its own.
    A process that is killed during a save leaves the file of the one before.

    As a context, it ends when what was begun is on the disk.

    Raises:
        UserError: if FEWSTEP_CHECKPOINT_SECONDS is not a number of 0 or more.
    """

    def __init__(self, file: Path, training: Training, watch: Watch) -> None:
        self.file, self.training, self.watch = file, training, watch
        self.seconds = checkpoint_seconds()
        self.saved_at = time.monotonic()
        self.cost = 0.0
        """Seconds that the last save took from the training: its copy, and the processor for the rest."""
        self._room: dict[str, Tensor] = {}
        """The memory of the last copy."""
        self._writer = ThreadPoolExecutor(1, "save")
        self._writing: Future[float] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self._writer.shutdown(wait=True)
        self._room.clear()
        # What ended the training is raised, and not what befell a save beside it.
        with suppress(*([Exception] if kind else [])):
            self._finish()

    def resume(self, tensors: dict[str, Tensor] | None) -> None:
        """Restore the tensors of the file, if there was one.

        Raises:
            UserError: if another process resumes at another step.
        """
        if tensors is not None:
            self.training.restore(tensors)
            self.watch.restore(tensors)
        if distributed.mean(self.training.step, self.training.device) != self.training.step:
            raise UserError(
                f"the processes do not resume at the same step; all need access to {self.file.parent}"
            )

    @property
    def interval(self) -> float:
        """Seconds from the copy of one save to that of the next."""
        return max(self.seconds, self.cost * (1 - SHARE) / SHARE if self.seconds else 0.0)

    @property
    def writing(self) -> bool:
        """Whether a copy is being written."""
        return self._writing is not None and not self._writing.done()

    def before_step(self) -> None:
        """Save if the interval has passed, unless the last save is still being written."""
        if not self._due():
            return
        self.save()
        if not self.seconds:
            self._finish()

    def _due(self) -> bool:
        """Return whether to save before this step; where weights are sharded the first process says when."""
        if not self.seconds:
            return True
        sharded = self.training.engine.sharded
        if sharded and self.training.step % ASKED:
            return False
        if not self.writing:
            self._finish()  # then its cost is known
        due = not self.writing and time.monotonic() - self.saved_at >= self.interval
        return bool(distributed.first([due], self.training.device)[0]) if sharded else due

    def save(self) -> None:
        """Begin to replace the file, unless the training diverged."""
        self.training.refuse_divergence()
        self._finish()
        with phase("save"):
            self._begin()

    def _begin(self) -> None:
        """Copy the training, and have the copy written."""
        began = time.monotonic()
        first, copies = distributed.rank() == 0, {}
        for source, changes in ((self.training, True), (self.watch, False)):
            for name, tensor in source.tensors().items():
                held = whole(tensor.detach())  # one at a time, and in all processes
                if first:
                    copies[name] = self._copied(name, held) if changes else held.to("cpu").contiguous()
        if first:
            self._writing = self._writer.submit(_write, self.file, copies, self.training.facts)
        self.saved_at = time.monotonic()
        self.cost = self.saved_at - began

    def _copied(self, name: str, tensor: Tensor) -> Tensor:
        """Return a copy in the memory of that before, as to get new memory takes longer than copying."""
        if name not in self._room:
            self._room[name] = torch.empty(tensor.shape, dtype=tensor.dtype)
        return self._room[name].copy_(tensor)

    def _finish(self) -> None:
        """Wait until what was begun is on the disk.

        Raises:
            UserError, OSError: see `write_state`.
        """
        if self._writing is not None:
            writing, self._writing = self._writing, None
            self.cost += writing.result()


def _write(file: Path, tensors: dict[str, Tensor], facts: dict[str, Any]) -> float:
    """Write the state, and return the seconds of the processor that this took."""
    began = time.thread_time()
    write_state(file, tensors, facts)
    return time.thread_time() - began
