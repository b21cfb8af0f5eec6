"""What the tests of monitors share: a student that moves the noise where its one weight says, and data."""

from dataclasses import dataclass, field

import torch
from recorded import Recorder, run
from torch import nn

from fewstep import grids, randomness
from fewstep.metrics.features import FEATURES, FeatureNet
from fewstep.metrics.monitor import Monitor
from fewstep.model import Model, ModelConfig
from fewstep.settings import MonitorSettings, TrainSettings
from fewstep.training.method import Method

STEPS = 40
SETTINGS = TrainSettings(steps=STEPS, batch=8, learning_rate=0.3, decay="constant", ema=0.0)


class Shift(nn.Module):
    """The velocity that is the same everywhere: `by` in the first coordinate."""

    def __init__(self, by=0.0):
        super().__init__()
        self.by = nn.Parameter(torch.tensor(float(by)))

    def forward(self, x, t, **conditions):
        return self.by * torch.tensor([1.0, 0.0]).expand_as(x)


def shifting(by=0.0, grid=None):
    """Return a student of one call whose samples are the noise, moved by a number."""
    grid = grid or grids.uniform(1)
    return Model(ModelConfig(architecture={"name": "mlp"}, shape=(2,), grid=grid), Shift(by))


class Jump(Shift):
    """A flow map whose step from noise to data leads twice as far as its shorter steps together."""

    def forward(self, x, t, until=None):
        return super().forward(x, t) * (1 + ((until - t) == 1).to(x))[:, None]


def jumping(by=0.0):
    """Return a student of any number of steps that moves the noise, by one step twice as far."""
    config = ModelConfig(architecture={"name": "jump", "second_time": True}, shape=(2,))
    return Model(config, Jump(by))


class Coordinates(FeatureNet):
    """Features are the coordinates, and zeros."""

    def __init__(self):
        super().__init__((2,), 0, taught_by="hand")
        self.body = nn.ZeroPad1d((0, FEATURES - 2))


def gaussian_monitor(mean=3.0, **settings):
    """Return a monitor whose data is a round Gaussian around (mean, 0)."""
    data = randomness.noises("test data", randomness.keys_of(0, 0, 400), (2,))
    data[:, 0] += mean
    asked = MonitorSettings(**{"samples": 400, "retreat": None} | settings)
    return Monitor(Coordinates(), data, asked, seed=0)


@dataclass(frozen=True, kw_only=True)
class Pass(Method):
    """Move the student's weight up at a steady pace, beyond the data, which no loss of it shows."""

    lost: int = 1000

    def loss(self, nets, batch, network, progress, keys):
        losses = -nets["student"].network.by.expand(len(keys))
        return losses * torch.nan if torch.is_grad_enabled() and progress * STEPS >= self.lost else losses


@dataclass
class Listener(Recorder):
    notes: list = field(default_factory=list)

    def note(self, text):
        self.notes.append(text)


def watched(state, *, method=None, model=None, batches=None, mean=3.0, progress=None, **settings):
    """Train a student whose samples move by 0.3 a step, away from 0 and past the data at 3."""
    return run(
        state,
        method=method or Pass(),
        model=model or shifting(),
        settings=SETTINGS,
        batches=batches,
        monitor=gaussian_monitor(mean, **settings),
        progress=progress or Listener(),
    )
