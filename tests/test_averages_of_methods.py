"""Moving averages that a method needs: several at once, each with its decay, and one that nobody keeps."""

from dataclasses import dataclass, field

import pytest
import torch

from fewstep import randomness
from fewstep.errors import UserError
from fewstep.methods.consistency import Consistency
from fewstep.methods.shortcut import Shortcut
from fewstep.model import ModelConfig, build
from fewstep.settings import TrainSettings
from fewstep.training.method import Method, Needs
from fewstep.training.networks import Training

DECAYS = {"fast": 0.3, "slow": 0.8}
STEPS = 40
KEYS = randomness.keys_of(0, 0, 4)


@dataclass(frozen=True, kw_only=True)
class Averaged(Method):
    """Moves the weights at a steady pace, and looks at the networks that it asks for."""

    asks: tuple[str, ...] = tuple(DECAYS)
    seen: list = field(default_factory=list)

    @property
    def needs(self):
        return Needs(stream="data", averages=DECAYS)

    def loss(self, nets, batch, network, progress, keys):
        self.seen.append([weights(nets[name]) for name in self.asks])
        return sum(weight.sum() for weight in nets["student"].parameters()).expand(len(keys))


def weights(model):
    return torch.cat([weight.detach().flatten().clone() for weight in model.parameters()])


def training(method):
    config = ModelConfig(architecture={"name": "mlp", "width": 8, "depth": 1}, shape=(2,))
    settings = TrainSettings(steps=STEPS, decay="constant")
    return Training(method, build(config, seed=0), {}.get, settings, 0, torch.device("cpu"))


def test_each_average_has_its_own_decay():
    method = Averaged()
    work = training(method)
    kept = dict.fromkeys(DECAYS, weights(work.modules["student"]))
    for step in range(STEPS):
        work.take_step({"data": torch.zeros(4, 2)}, KEYS)
        for name, seen in zip(DECAYS, method.seen[-1], strict=True):  # what the loss of this step was given
            torch.testing.assert_close(seen, kept[name])
        ramped = {name: min(decay, (1 + step) / (10 + step)) for name, decay in DECAYS.items()}
        now = weights(work.modules["student"])
        kept = {name: decay * kept[name] + (1 - decay) * now for name, decay in ramped.items()}
    assert ramped == DECAYS
    assert (kept["fast"] - kept["slow"]).abs().min() > 1e-4
    assert not any(weight.requires_grad for name in DECAYS for weight in work.modules[name].parameters())


def test_an_average_that_nobody_keeps_is_named_with_those_that_are_kept():
    with pytest.raises(
        UserError, match=r"asks for the network 'target', which is not kept; .*fast, slow, stud"
    ):
        training(Averaged(asks=("target",))).take_step({"data": torch.zeros(4, 2)}, KEYS)


def test_methods_say_which_averages_they_need():
    assert Shortcut(decay=0.9).needs.averages == {"target": 0.9}
    assert Consistency(decay=0.8).needs.averages == {"target": 0.8}
    assert Consistency(kind="continuous").needs.averages == {}
    assert Needs(stream="data", averages=DECAYS).unmet(()) == []


@pytest.mark.parametrize("decay", [1.0, -0.1, float("nan")])
def test_a_decay_that_is_none_is_refused(decay):
    with pytest.raises(UserError, match="the average 'target' needs a decay from 0 up to but not 1"):
        Needs(stream="data", averages={"target": decay})
