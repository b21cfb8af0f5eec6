"""The training loop, the only one: every method runs in it and none touches it."""

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from fewstep import distributed
from fewstep.errors import UserError
from fewstep.metrics.monitor import Monitor
from fewstep.model import Model
from fewstep.progress import SILENT, Progress
from fewstep.settings import TrainSettings
from fewstep.training.method import Batch, Method
from fewstep.training.networks import DivergedError, Training
from fewstep.training.state import read_state, write_state
from fewstep.training.watch import Watch, Watched

REPORT_STEPS = 50  # steps from one report to the next, or fewer in a short training


class BatchSource(Protocol):
    """Where batches come from: fewstep.shards.Batches, or anything else that can go to any step."""

    def __getitem__(self, step: int) -> tuple[Batch, Tensor]:
        """Return this process's share of batch number `step`, and its samples' keys, int64 (n, 2)."""


@dataclass(frozen=True)
class Trained:
    """What a training ends with."""

    model: Model
    """The student, in evaluation mode, with averaged weights if the method keeps an average, and of the best
    look if a monitor looked."""
    first_held_out_loss: float
    """The student's loss on the held-out batch before training."""
    held_out_loss: float
    """The trained model's."""
    loss: float
    """The training loss of the last steps, before averaging weights."""
    skipped: int
    """Updates that were left out, for their loss or its gradient was not finite."""
    watched: Watched | None
    """What the monitor saw, if there was one."""
    known_losses: Tensor | None = None
    """The trained model's loss on each sample of `known`, (n,), if that was given."""
    fresh_losses: Tensor | None = None
    """And on as many held-out samples, with the same times and noise."""


def train(
    method: Method,
    student: Model,
    *,
    load: Callable[[str], Model],
    batches: BatchSource,
    held_out: Batch,
    settings: TrainSettings,
    seed: int,
    state: Path,
    known: Batch | None = None,
    monitor: Monitor | None = None,
    progress: Progress = SILENT,
    device: torch.device | str = "cpu",
) -> Trained:
    """Train `student`, in place, and return it; go on where an interrupted call left off.

    Equal arguments give equal weights, whether the run was interrupted or not. The environment
    variable FEWSTEP_CHECKPOINT_SECONDS (20) says how much time an interruption may lose.

    An update whose loss or gradient is not finite is left out. Ten in a row are refused, unless a monitor
    has looked: then the training ends there, with the weights of the best look.

    Args:
        method: What is learned.
        student: The model, as it is before training.
        load: Returns the models that the method asks for by name, such as "teacher".
        batches: The training batches, of the method's stream. Under torchrun, after
            `fewstep.distributed.join`, each process's own share of them. A sample's loss is multiplied by
            its "weight", (n,), if there is one, which the method doesn't see.
        held_out: A batch of the same stream that is not trained on.
        settings: How to train.
        seed: Decides whatever is random beside the batches, such as dropout.
        state: Folder of the resume state; every process must see it.
        known: Samples that are trained on, to tell at the end how well they are remembered.
        monitor: Looks at the student from time to time; the training ends with the weights of the best
            look, and early if the monitor's patience ends. Of several processes, the first looks.
        progress: Told of the steps and losses.
        device: Where to compute.

    Returns:
        The trained model and its losses.

    Raises:
        UserError: if the method can't train such a student, the losses stop being finite, `state`
            holds another training, or FEWSTEP_CHECKPOINT_SECONDS is no number from 0.
    """
    training = Training(method, student, load, settings, seed, torch.device(device))
    if distributed.rank():
        progress = SILENT
    watch = Watch(monitor, training, progress)
    saver = _Saver(state / "train_state.safetensors", training, watch)
    saved = read_state(saver.file, training.facts, progress.note)
    first = training.evaluate(held_out)
    saver.resume(saved)
    reporter = _Reporter(training, held_out, progress)
    try:
        while True:
            reporter.before_step()
            watch.before_step()
            if training.step == settings.steps or watch.stopped:
                break
            saver.before_step()
            training.take_step(*batches[training.step])
            reporter.after_step()
        saver.save()
    except DivergedError as error:
        watch.give_up(error)
    watched = watch.finish()
    held_out_loss = reporter.measure(evaluate=True)["held_out"]
    model = training.trainees["student"].result.eval()
    assert isinstance(model, Model)
    trained = Trained(model, first, held_out_loss, training.losses()["student"], training.skipped(), watched)
    if known is None:
        return trained
    known_losses, fresh = (torch.cat(training.evaluated(samples)).cpu() for samples in (known, held_out))
    count = min(len(known_losses), len(fresh))
    return replace(trained, known_losses=known_losses[:count], fresh_losses=fresh[:count])


def _checkpoint_seconds() -> float:
    """Return the time between two saves.

    Raises:
        UserError: if the environment variable says something else than seconds.
    """
    text = os.environ.get("FEWSTEP_CHECKPOINT_SECONDS", "20")
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not seconds >= 0:
        raise UserError(f"FEWSTEP_CHECKPOINT_SECONDS must be a number of seconds from 0, got {text!r}")
    return seconds


class _Saver:
    """Keeps the training on disk: from time to time, and at its end."""

    def __init__(self, file: Path, training: Training, watch: Watch) -> None:
        self.file, self.training, self.watch = file, training, watch
        self.seconds = _checkpoint_seconds()
        self.saved_at = time.monotonic()

    def resume(self, tensors: dict[str, Tensor] | None) -> None:
        """Go on from what the file holds."""
        if tensors is not None:
            self.training.restore(tensors)
            self.watch.restore(tensors)
        if distributed.mean(self.training.step, self.training.device) != self.training.step:
            raise UserError(f"the processes do not resume at the same step; all must see {self.file.parent}")

    def before_step(self) -> None:
        """Save if it is time."""
        if time.monotonic() - self.saved_at >= self.seconds:
            self.save()

    def save(self) -> None:
        """Replace the file, unless the training diverged."""
        self.training.refuse_divergence()
        if distributed.rank() == 0:
            tensors = self.training.tensors() | self.watch.tensors()
            write_state(self.file, tensors, self.training.facts)
        self.saved_at = time.monotonic()


class _Reporter:
    """Tells of losses every few steps, and of the held-out loss ten times and at the end."""

    def __init__(self, training: Training, held_out: Batch, progress: Progress) -> None:
        self.training, self.held_out, self.progress = training, held_out, progress
        steps = training.settings.steps
        self.reports = range(0, steps, min(REPORT_STEPS, max(1, steps // 40)))
        self.evaluations = range(0, steps, max(1, steps // 10))
        self.last = training.step, time.monotonic()
        self.shown: dict[str, float] = {}
        progress.start("train", steps, done=training.step)

    def before_step(self) -> None:
        """Report if it is time."""
        step = self.training.step
        if step in self.reports or step in self.evaluations:
            self.training.refuse_divergence()
            self.measure(evaluate=step in self.evaluations)

    def after_step(self) -> None:
        """Count the step."""
        self.progress.advance(1, **self.shown)

    def measure(self, *, evaluate: bool) -> dict[str, float]:
        """Report and return the losses; `evaluate`: the held-out one too."""
        step, then = self.training.step, time.monotonic()
        losses = {"loss" if n == "student" else f"loss_{n}": x for n, x in self.training.losses().items()}
        values = losses | {"learning_rate": self.training.rate}
        if step > self.last[0]:
            values["steps_per_second"] = (step - self.last[0]) / (then - self.last[1])
        if evaluate:
            values["held_out"] = self.training.evaluate(self.held_out)
        self.progress.measure(step, **values)
        self.shown, self.last = losses, (step, time.monotonic())
        return values
