"""Watch: the monitor's looks at a training, and the weights of the best, with which it ends."""

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
REMEDY = (
    "try a lower learning_rate, a longer warm-up of the other networks, a regression_weight, or more noise"
)


@dataclass(frozen=True)
class Watched:
    """What the monitor saw of a training."""

    picked: Look
    """The look whose weights the training ended with: that of the least distance."""
    looks: int
    """How many there were."""
    collapse: str | None
    """What went wrong on the way, if anything did, and what to try."""


class Watch:
    """Looks at the student from time to time, if there is a monitor, and keeps its best weights."""

    def __init__(self, monitor: Monitor | None, training: Training, progress: Progress) -> None:
        self.monitor, self.training, self.progress = monitor, training, progress
        self.looks: list[Look] = []
        self.best: dict[str, Tensor] = {}
        self.lost: str | None = None
        if monitor is not None:
            self.every = math.ceil(training.settings.steps / monitor.settings.looks)
            training.facts["monitor"] = asdict(monitor.settings) | {"net": monitor.net.digest}

    @property
    def picked(self) -> Look:
        """The best look, the first of several as good."""
        return min(self.looks, key=lambda look: look.fd)

    @property
    def stopped(self) -> bool:
        """Whether the training is to end here."""
        if self.monitor is None or self.monitor.settings.patience is None or not self.looks:
            return False
        return len(self.looks) - 1 - self.looks.index(self.picked) >= self.monitor.settings.patience

    def before_step(self) -> None:
        """Look if it is time, and not done yet."""
        step = self.training.step
        if self.monitor is None or (self.looks and self.looks[-1].step == step):
            return
        if step % self.every == 0 or step == self.training.settings.steps:
            self._look(self.monitor, step)

    def _look(self, monitor: Monitor, step: int) -> None:
        self.training.refuse_divergence()
        seen = monitor.look(self._student, step) if distributed.rank() == 0 else Look(step, 0, 0, 0)
        _, *numbers = distributed.first(astuple(seen), self.training.device)
        look = Look(step, *numbers)
        if not math.isfinite(look.fd):
            raise DivergedError(f"the student's samples are not finite at step {step}; {REMEDY}")
        self.looks.append(look)
        told = {f"monitor.{name}": value for name, value in asdict(look).items() if name != "step"}
        self.progress.measure(step, **told)
        if look is self.picked:
            self.best = {name: x.detach().clone() for name, x in self._student.state_dict().items()}
        if (what := collapse(self.looks)) and not collapse(self.looks[:-1]):
            self.progress.note(what)

    def give_up(self, error: DivergedError) -> None:
        """End a training that diverged with the best weights, if there are any.

        Raises:
            DivergedError: the error itself, if there are none.
        """
        if not self.looks:
            raise error
        self.lost = str(error)
        self.progress.note(self.lost)

    def finish(self) -> Watched | None:
        """Give the student its best weights, and return what was seen, if anything looked."""
        if self.monitor is None:
            return None
        self._student.load_state_dict(self.best)
        return Watched(self.picked, len(self.looks), self.lost or collapse(self.looks))

    @property
    def _student(self) -> Model:
        student = self.training.trainees["student"].result
        assert isinstance(student, Model)
        return student

    def tensors(self) -> dict[str, Tensor]:
        """Return everything that changes from look to look."""
        if not self.looks:
            return {}
        seen = torch.tensor([astuple(look) for look in self.looks], dtype=torch.float64)
        return {"watch/looks": seen} | {f"watch/best/{name}": tensor for name, tensor in self.best.items()}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Take over what `tensors` returned."""
        if "watch/looks" in tensors:
            self.looks = [Look(int(step), *numbers) for step, *numbers in tensors["watch/looks"].tolist()]
            self.best = under("watch/best/", tensors)


def collapse(looks: Sequence[Look]) -> str | None:
    """Say what broke down at the first look that is far worse than the best before it, if one is."""
    for number, look in enumerate(looks[1:], 1):
        before = looks[:number]
        fd, shares = min(x.fd for x in before), min(x.shares for x in before)
        recall = max(x.recall for x in before)
        if look.recall < RECALL_LEFT * recall:
            what = f"recall fell from {recall:.2f} to {look.recall:.2f}: it leaves out much of the data"
        elif look.shares > shares + SHARES_MOVED:
            what = f"its share of one kind of sample is off by {look.shares:.2f}, and was by {shares:.2f}"
        elif look.fd > FD_TIMES * fd:
            what = f"its distance to the data rose from {fd:.3g} to {look.fd:.3g}"
        else:
            continue
        return f"the student collapsed by step {look.step}: {what}; {REMEDY}"
    return None
