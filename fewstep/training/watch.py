"""Watch: runs the monitor during a training and keeps the weights of the best look."""

import math
from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass

import torch
from torch import Tensor

from fewstep import distributed
from fewstep.metrics.monitor import Look, Monitor
from fewstep.model import Model
from fewstep.progress import Progress
from fewstep.training.networks import DivergedError, Training
from fewstep.training.trainee import under

FD_TIMES = 5.0  # times the least distance so far; a look with more is called a collapse,
RECALL_LEFT = 0.5  # as is one with less than this part of the greatest recall so far,
SHARES_MOVED = 0.25  # or with shares further off than the best so far by this
REMEDY = "try a lower learning_rate, or in the method a greater fake_warmup or a regression_weight"


@dataclass(frozen=True)
class Watched:
    """The results of a monitor in a training."""

    picked: Look
    """The look with the least distance, whose weights the training ended with."""
    looks: int
    """The number of looks."""
    retreats: int
    """How many times the training went back to its best look, with half of its learning rates."""
    collapse: str | None
    """What went wrong during the training for good, if anything did, and what to try."""


class Watch:
    """Runs the monitor, if there is one, at intervals, and keeps the student's best weights."""

    def __init__(self, monitor: Monitor | None, training: Training, progress: Progress) -> None:
        self.monitor, self.training, self.progress = monitor, training, progress
        self.looks: list[Look] = []
        self.best: dict[str, Tensor] = {}
        """Everything that changes from step to step, as it was at the best look, on the CPU; it is replaced,
        and never changed."""
        self.retreats = 0
        self.lost: str | None = None
        if monitor is not None:
            self.every = math.ceil(training.settings.steps / monitor.settings.looks)
            training.facts["monitor"] = asdict(monitor.settings) | {"net": monitor.net.digest}

    @property
    def picked(self) -> Look:
        """The best look; of several equal ones the first."""
        return min(self.looks, key=lambda look: look.fd)

    @property
    def stopped(self) -> bool:
        """Whether the training must stop here."""
        if self.monitor is None or self.monitor.settings.patience is None or not self.looks:
            return False
        return len(self.looks) - 1 - self.looks.index(self.picked) >= self.monitor.settings.patience

    def before_step(self) -> None:
        """Run the monitor if this step is due and has not been looked at."""
        step = self.training.step
        if self.monitor is None or (self.looks and self.looks[-1].step == step):
            return
        if step % self.every == 0 or step == self.training.settings.steps:
            self._look(self.monitor, step)

    def _look(self, monitor: Monitor, step: int) -> None:
        self.training.refuse_divergence()
        looks = distributed.rank() == 0 or self.training.engine.sharded  # all must ask a sharded network
        seen = monitor.look(self._student, step) if looks else Look(step, 0, 0, 0)
        _, *numbers = distributed.first(astuple(seen), self.training.device)
        look = Look(step, *numbers)
        if not math.isfinite(look.fd):
            raise DivergedError(f"the student's samples are not finite at step {step}; {REMEDY}")
        self.looks.append(look)
        told = {f"monitor.{name}": value for name, value in asdict(look).items() if name != "step"}
        self.progress.measure(step, **told)
        if look is self.picked:
            self.best = {name: x.detach().to("cpu", copy=True) for name, x in self.training.tensors().items()}
        elif monitor.settings.retreat is None:
            if (what := collapse(self.looks)) and not collapse(self.looks[:-1]):
                self.progress.note(what)
        elif look.fd > monitor.settings.retreat * self.picked.fd or broke_down(look, self.looks[:-1]):
            self._retreat(look)

    def _retreat(self, look: Look) -> None:
        """Go back to the best look, with half of the learning rates that led away from it."""
        step, slowed = self.training.step, self.training.slowed / 2
        self.training.restore({name: x.clone() for name, x in self.best.items()})
        self.training.step, self.training.slowed = step, slowed
        self.retreats += 1
        self.progress.note(
            f"at step {look.step} the distance to the data is {look.fd:.3g}, and was {self.picked.fd:.3g} at "
            f"step {self.picked.step}: back to that, with the learning rates times {slowed:g}"
        )

    def give_up(self, error: DivergedError) -> None:
        """End a training that diverged with the best weights, if there are any.

        Raises:
            DivergedError: the given error, if there are none.
        """
        if not self.looks:
            raise error
        self.lost = str(error)
        self.progress.note(self.lost)

    def finish(self) -> Watched | None:
        """Restore the student's best weights and return the results; None without a monitor."""
        if self.monitor is None:
            return None
        self.training.trainees["student"].restore_result(under("student/", self.best))
        lost = self.lost or (collapse(self.looks) if self.monitor.settings.retreat is None else None)
        return Watched(self.picked, len(self.looks), self.retreats, lost)

    @property
    def _student(self) -> Model:
        student = self.training.trainees["student"].result
        assert isinstance(student, Model)
        return student

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors of the monitor's state."""
        if not self.looks:
            return {}
        seen = torch.tensor([astuple(look) for look in self.looks], dtype=torch.float64)
        found = {"watch/looks": seen, "watch/retreats": torch.tensor(self.retreats)}
        return found | {f"watch/best/{name}": tensor for name, tensor in self.best.items()}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Restore the tensors that `tensors` returned."""
        if "watch/looks" in tensors:
            self.looks = [Look(int(step), *numbers) for step, *numbers in tensors["watch/looks"].tolist()]
            self.retreats = int(tensors["watch/retreats"])
            self.best = under("watch/best/", tensors)


def collapse(looks: Sequence[Look]) -> str | None:
    """Return a warning about the first look that is far worse than the best before it, if any."""
    for number, look in enumerate(looks[1:], 1):
        if what := broke_down(look, looks[:number]):
            return f"the student collapsed by step {look.step}: {what}; {REMEDY}"
    return None


def broke_down(look: Look, before: Sequence[Look]) -> str | None:
    """Say what is far worse at a look than at the best of those before it, if anything is."""
    fd, shares = min(x.fd for x in before), min(x.shares for x in before)
    recall = max(x.recall for x in before)
    if look.recall < RECALL_LEFT * recall:
        return f"recall fell from {recall:.2f} to {look.recall:.2f}: it misses much of the data"
    if look.shares > shares + SHARES_MOVED:
        return f"its share of one kind of sample is off by {look.shares:.2f}, and was by {shares:.2f}"
    if look.fd > FD_TIMES * fd:
        return f"its distance to the data rose from {fd:.3g} to {look.fd:.3g}"
    return None
