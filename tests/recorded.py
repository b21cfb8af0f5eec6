"""What the tests of training share: batches from a formula, a listener, and a method of two networks."""

from dataclasses import dataclass, field

import torch
from torch import nn

from fewstep import randomness
from fewstep.grids import uniform
from fewstep.methods.anyflow import Anyflow
from fewstep.methods.consistency import Consistency
from fewstep.methods.dmd import Dmd
from fewstep.methods.flow_map import FlowMap
from fewstep.methods.flow_map_distillation import FlowMapDistillation
from fewstep.methods.flow_matching import FlowMatching
from fewstep.methods.meanflow import Meanflow
from fewstep.methods.shortcut import Shortcut
from fewstep.methods.sim import Sim
from fewstep.model import ModelConfig, build
from fewstep.settings import TrainSettings
from fewstep.training.loop import train
from fewstep.training.method import Method, Net
from fewstep.training.needed_inputs import with_needed


def student(seed=0, **config):
    architecture = {"name": "mlp", "width": 16, "depth": 1}
    return build(ModelConfig(architecture=architecture, shape=(2,), **config), seed=seed)


def teacher(name="teacher"):
    """Return what a method loads beside its student: a model whose velocity is not zero, as a fresh one's."""
    model = student(seed=9)
    with torch.no_grad():
        for number, weight in enumerate(model.parameters()):
            keys = randomness.keys_of(number, 0, weight.numel())
            weight.add_(0.3 * randomness.noises("teacher", keys, (1,)).reshape(weight.shape))
    return model


def student_of(method):
    """Return a student that the method can train."""
    model = student(grid=uniform(1 if method.trained_times == "until_1" else 2))
    return with_needed(model, method.needs, seed=0)


FLOW_MAPS = {
    "flow map": FlowMap(),
    "lagrangian": FlowMapDistillation(),
    "eulerian": FlowMapDistillation(identity="eulerian"),
    "semigroup": FlowMapDistillation(identity="semigroup"),
    "meanflow": Meanflow(),
    "meanflow on data, exact": Meanflow(learn_from="data", power=0, exact=True),
    "shortcut": Shortcut(),
    "anyflow": Anyflow(fake_warmup=2),
    "anyflow with the map": Anyflow(fake_warmup=2, map_weight=1.0),
}
CONSISTENCY = {
    "continuous": Consistency(kind="continuous"),
    "continuous, exact": Consistency(kind="continuous", exact=True),
    "by chords": Consistency(teacher=False),
}
ON_POLICY = {
    "dmd through the last step": Dmd(fake_warmup=2, through="last"),
    "sim with a critic": Sim(fake_warmup=2, gan_weight=0.1),
    "dmd with a critic on its fake network": Dmd(
        fake_warmup=2, gan_weight=0.1, critic="fake", gan_loss="logistic", critic_sees="noised"
    ),
}
VARIANTS = FLOW_MAPS | CONSISTENCY | ON_POLICY
"""Methods that differentiate, keep averages or train several networks, each as its options make it."""


@dataclass(frozen=True)
class FixedBatches:
    """Points on the unit circle, noise and states between; a rank's share is its slice of the whole batch."""

    size: int
    rank: int = 0
    ranks: int = 1

    def __getitem__(self, step):
        share = self.size // self.ranks
        start = step * self.size + self.rank * share
        keys = randomness.keys_of(11, start, start + share)
        angle = 6.28 * randomness.uniforms("circle", keys)
        data = torch.stack([angle.cos(), angle.sin()], dim=1)
        noise, times = (
            randomness.noises("circle noise", keys, (2,)),
            torch.linspace(0, 1, 5).expand(share, -1),
        )
        states = noise[:, None] + times[..., None] * (data - noise)[:, None]
        return {"data": data, "noise": noise, "states": states, "times": times}, keys


@dataclass
class Recorder:
    """A listener that remembers."""

    started: list = field(default_factory=list)
    measured: list = field(default_factory=list)
    advanced: int = 0
    shown: dict = field(default_factory=dict)
    notes: list = field(default_factory=list)

    def start(self, label, total, *, done=0, unit="step"):
        self.started.append((label, total, done))

    def advance(self, units=1, **values):
        self.advanced += units
        self.shown = values

    def measure(self, step, **values):
        self.measured.append((step, values))

    def note(self, text):
        self.notes.append(text)


def run(state, *, method=None, model=None, load=None, settings=None, seed=0, batches=None, **options):
    """Train with what is not given filled in."""
    settings = settings or TrainSettings(steps=40, batch=8)
    return train(
        method or FlowMatching(),
        model or student(),
        load=load or {}.get,
        batches=batches or FixedBatches(settings.batch),
        held_out=[FixedBatches(10)[10_000][0]],
        settings=settings,
        seed=seed,
        state=state,
        **options,
    )


class Critic(nn.Module):
    """Says how real a point looks; has dropout and a buffer, which must resume too."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 1))

    def forward(self, x):
        return self.layers(x)[:, 0]


@dataclass(frozen=True, kw_only=True)
class TwoNetworks(Method):
    """A one-step generator against a critic, beside a frozen teacher: two turns of the critic a step."""

    def __post_init__(self):
        object.__setattr__(self, "seen", [])
        object.__setattr__(self, "critic_modes", set())
        object.__setattr__(self, "keys", [])

    def networks(self, student, load):
        torch.manual_seed(4)
        nets = {"student": Net(student, ema=True), "critic": Net(Critic(), ema=True)}
        return nets | {"teacher": Net(load("teacher"), trains=False)}

    def updates(self, step):
        return ("critic", "critic", "student") if step % 3 else ("critic",)

    def loss(self, nets, batch, network, progress, keys):
        self.critic_modes.add((torch.is_grad_enabled(), nets["critic"].training))
        if torch.is_grad_enabled():
            trainable = {n for n, net in nets.items() if any(p.requires_grad for p in net.parameters())}
            self.seen.append((network, trainable))
            self.keys.append(tuple(keys.flatten().tolist()))
        noise = randomness.noises("train.noise", keys, (2,))
        t = torch.zeros(len(noise))
        fake = noise + nets["student"](noise, t)
        close = (fake - noise - nets["teacher"](noise, t)).square().mean(dim=1)
        if network == "student":
            return close - nets["critic"](fake)
        return nets["critic"](fake).relu() + (1 - nets["critic"](batch["data"])).relu()
