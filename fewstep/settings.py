"""TrainSettings: how the training loop runs, whatever the method; MonitorSettings: how it is watched."""

import math
from dataclasses import dataclass
from typing import Any, Literal

from fewstep.errors import UserError

WIDEST = 0.28  # of averages by powers of the step; at 1 / (2 sqrt(3)) all steps count alike


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """Settings of `fewstep.training.loop`; together with the seed they decide the weights.

    Raises:
        UserError: for a value that can't be; the message names the setting.
    """

    steps: int
    """Optimiser steps."""
    batch: int = 128
    """Samples of one step, over all processes."""
    learning_rate: float = 1e-3
    """Learning rate at its peak."""
    warmup: int = 0
    """Steps over which the learning rate rises from 0."""
    decay: Literal["cosine", "constant"] = "cosine"
    """What the learning rate does after the warm-up: fall to 0 along a half cosine, or stay."""
    weight_decay: float = 0.0
    """Decoupled weight decay (AdamW)."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay rates of Adam's two moments."""
    clip: float = 1.0
    """Greatest norm of a gradient; longer ones are scaled down to it."""
    ema: float = 0.998
    """Decay of the moving average of the weights, once its ramp (1 + n) / (10 + n) has passed it."""
    widths: tuple[float, ...] = ()
    """Relative widths of further averages, by powers of the step, such as [0.05, 0.1]. From two,
    `fewstep average` makes that of any other width after the training."""
    snapshots: int = 16
    """How many times these are kept, evenly over the steps."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Type in which networks compute; weights and optimiser stay float32."""
    frozen: Literal["float32", "bfloat16"] = "float32"
    """Type of the weights of networks that are not trained, such as a teacher; bfloat16 halves the bytes and
    needs precision bfloat16. The net whose features a loss compares stays in float32."""
    moments: Literal["float32", "8bit"] = "float32"
    """How Adam's two moments of each weight are held; 8bit takes a quarter of the bytes, and torchao."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "betas", tuple(map(float, self.betas)))  # torch takes no whole numbers
        _require(self, "steps", self.steps >= 1, "1 or more")
        _require(self, "batch", self.batch >= 1, "1 or more")
        _require(self, "learning_rate", 0 < self.learning_rate < math.inf, "a positive number")
        _require(self, "warmup", 0 <= self.warmup <= self.steps, f"from 0 to steps ({self.steps})")
        _require(self, "decay", self.decay in ("cosine", "constant"), "cosine or constant")
        _require(self, "weight_decay", 0 <= self.weight_decay < math.inf, "0 or more")
        in_range = len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas)
        _require(self, "betas", in_range, "two numbers from 0 up to but not 1")
        _require(self, "clip", self.clip > 0, "a positive number")
        _require(self, "ema", 0 <= self.ema < 1, "from 0 up to but not 1")
        object.__setattr__(self, "widths", tuple(map(float, self.widths)))
        allowed = len(set(self.widths)) == len(self.widths) and all(0 < w <= WIDEST for w in self.widths)
        _require(self, "widths", allowed, f"different numbers above 0 and up to {WIDEST}")
        _require(self, "snapshots", self.snapshots >= 1, "1 or more")
        _require(self, "precision", self.precision in ("float32", "bfloat16"), "float32 or bfloat16")
        _require(self, "frozen", self.frozen in ("float32", "bfloat16"), "float32 or bfloat16")
        if self.frozen == "bfloat16" and self.precision != "bfloat16":
            raise UserError(
                "frozen bfloat16 needs precision: bfloat16; set that too, or set frozen to float32"
            )
        _require(self, "moments", self.moments in ("float32", "8bit"), "float32 or 8bit")

    def rate(self, step: int) -> float:
        """Return the learning rate of `step`, counted from 0."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        if self.decay == "constant":
            return self.learning_rate
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.learning_rate * (1 + math.cos(math.pi * done)) / 2


@dataclass(frozen=True, kw_only=True)
class MonitorSettings:
    """Settings of a training's monitor, which picks the weights that the training ends with.

    Raises:
        UserError: for a value that can't be; the message names the setting.
    """

    samples: int = 1000
    """Samples of one look, from the same noise each time."""
    looks: int = 10
    """Looks after the first, which is at the start, spread evenly over the steps."""
    patience: int | None = None
    """End after so many looks in a row without a better one; null trains to the end in any case."""
    retreat: float | None = 1.5
    """A look with so many times the best distance, or a collapse, sends the training back to its best look,
    and halves its learning rates: one that is too high for the data is found out. null never does."""
    nfe: tuple[int, ...] | None = None
    """Numbers of equal steps with which a look samples a student of any number; null is 1 and 4, or those
    of them that it knows. One of a grid is sampled on that."""

    def __post_init__(self) -> None:
        _require(self, "samples", self.samples >= 100, "100 or more")
        _require(self, "looks", self.looks >= 1, "1 or more")
        nfe = self.nfe is None or (len(self.nfe) > 0 and min(self.nfe) >= 1)
        _require(self, "nfe", nfe, "whole numbers from 1, or null")
        _require(self, "retreat", self.retreat is None or self.retreat > 1, "more than 1, or null")
        _require(self, "patience", self.patience is None or self.patience >= 1, "1 or more, or null")


def _require(settings: Any, name: str, holds: bool, wanted: str) -> None:
    if not holds:
        got = getattr(settings, name)
        raise UserError(f"{name} must be {wanted}, got {list(got) if isinstance(got, tuple) else got!r}")
