"""The memory of a training, told before it: what is counted is exact, and what is extrapolated is near."""

from dataclasses import dataclass

import pytest
import torch
from recorded import FixedBatches, TwoNetworks, student
from torch import nn

from fewstep import grids, randomness
from fewstep.methods.dmd import Dmd
from fewstep.methods.flow_matching import FlowMatching
from fewstep.model import ModelConfig, build
from fewstep.settings import TrainSettings
from fewstep.training import footprint
from fewstep.training.footprint import Activations, Engaged, Footprint, TrainingCosts
from fewstep.training.method import Method, Net
from fewstep.training.networks import Training

UNET = {"name": "unet", "width": 8, "multipliers": [1, 2], "blocks": 1}
CPU, SHAPE, BATCH = torch.device("cpu"), (1, 16, 16), 32


def training_of(method, batch=BATCH):
    def model(seed):
        return build(ModelConfig(architecture=UNET, shape=SHAPE, grid=grids.uniform(2)), seed=seed)

    return Training(method, model(0), lambda name: model(1), TrainSettings(steps=9, batch=batch), 0, CPU)


def some(samples):
    keys = randomness.keys_of(0, 0, samples)
    return {name: randomness.noises(name, keys, SHAPE) for name in ("data", "noise")}, keys


def most(method):
    """Return the bytes that a whole step takes beside weights, moments and averages."""
    training = training_of(method)
    training.take_step(*some(BATCH))
    for trainee in training.trainees.values():
        trainee.optimiser.zero_grad()
    return footprint.rise(lambda: training.take_step(*some(BATCH)), CPU)


@pytest.fixture(scope="module", params=[FlowMatching(), Dmd(fake_warmup=0)], ids=lambda m: type(m).__name__)
def measured(request):
    """A method, and what was measured of its training."""
    return request.param, footprint.measure(training_of(request.param), *some(footprint.BATCH))


@pytest.mark.parametrize("micro_batch", [8, BATCH])
@pytest.mark.parametrize("recompute", [False, True])
def test_a_plan_is_near_to_what_a_step_takes(monkeypatch, measured, micro_batch, recompute):
    method, facts = measured
    planned = facts.footprint(Engaged(BATCH, micro_batch, recompute))
    monkeypatch.setenv("FEWSTEP_MICRO_BATCH", str(micro_batch))
    monkeypatch.setenv("FEWSTEP_RECOMPUTE", "on" if recompute else "off")
    passes = planned.gradients + planned.activations - planned.replaced
    assert passes == pytest.approx(most(method), rel=0.15)


def test_held_memory_is_counted_exactly():
    model = student()
    training = Training(FlowMatching(), model, {}.get, TrainSettings(steps=9), 0, CPU)
    batch, keys = FixedBatches(footprint.BATCH)[0]
    measured = footprint.measure(training, batch, keys)
    count = sum(p.numel() for p in model.parameters())
    tensors = len(list(model.parameters()))
    held = 4 * count + sum(4 * buffer.numel() for buffer in model.buffers())
    assert (measured.trained, measured.frozen) == (count, 0)
    assert measured.held == Footprint(
        weights=held,
        gradients=4 * count,
        moments=8 * count + 4 * tensors,  # and how many updates each weight had
        averages=held,
        activations=0,
        replaced=0,
    )


def test_frozen_networks_and_those_beside_the_student_are_counted():
    networks = {"student": student(), "teacher": student(seed=1)}
    training = Training(
        TwoNetworks(), networks["student"], networks.get, TrainSettings(steps=9, batch=16), 0, CPU
    )
    critic = sum(p.numel() for p in training.modules["critic"].parameters())
    own = sum(p.numel() for p in networks["student"].parameters())
    measured = footprint.measure(training, *FixedBatches(footprint.BATCH)[0])
    assert (measured.trained, measured.frozen) == (own + critic, own)
    assert measured.held.gradients == 4 * (own + critic)
    assert measured.least_gradients == 4 * min(own, critic)


def test_frozen_networks_may_have_half_of_the_bytes():
    def measured(**settings):
        networks = {"student": student(), "teacher": student(seed=1)}
        train = TrainSettings(steps=9, batch=16, precision="bfloat16", **settings)
        training = Training(TwoNetworks(), networks["student"], networks.get, train, 0, CPU)
        return training, footprint.measure(training, *FixedBatches(footprint.BATCH)[0])

    _, whole = measured()
    training, half = measured(frozen="bfloat16")
    own = sum(p.numel() for p in training.modules["teacher"].parameters())
    assert whole.held.weights - half.held.weights == 2 * own
    assert half.held.gradients == whole.held.gradients
    assert {b.dtype for b in training.modules["teacher"].buffers()} <= {torch.float32}
    assert {p.dtype for p in training.modules["student"].parameters()} == {torch.float32}


@dataclass(frozen=True, kw_only=True)
class Half(Method):
    """Trains one half of a student, whose other half is shared with its average."""

    def networks(self, student, load):
        for parameter in list(student.parameters())[:2]:
            parameter.requires_grad_(False)
        return {"student": Net(student, ema=True, averages={"slow": 0.9})}

    def loss(self, nets, batch, network, progress, keys):
        return nets["student"](batch["data"], torch.zeros(len(keys))).square().mean(dim=1)


def test_frozen_weights_that_averages_share_are_counted_once():
    model = student()
    every = [p.numel() for p in model.parameters()]
    training = Training(Half(), model, {}.get, TrainSettings(steps=9), 0, CPU)
    measured = footprint.measure(training, *FixedBatches(footprint.BATCH)[0])
    trained = sum(every[2:])
    buffers = sum(4 * buffer.numel() for buffer in model.buffers())
    assert (measured.trained, measured.frozen) == (trained, sum(every[:2]))
    assert measured.held.averages == 2 * (4 * trained + buffers)


@dataclass(frozen=True, kw_only=True)
class OverOneBase(Method):
    """Trains the last layers of a student, whose first ones another network shares."""

    def networks(self, student, load):
        teacher = load("teacher")
        name, first = next(student.network.named_children())
        setattr(teacher.network, name, first.requires_grad_(False))
        return {"student": Net(student), "teacher": Net(teacher, trains=False)}

    def loss(self, nets, batch, network, progress, keys):
        return nets["student"](batch["data"], torch.zeros(len(keys))).square().mean(dim=1)


def test_frozen_weights_that_networks_share_are_counted_once():
    networks = {"student": student(), "teacher": student(seed=1)}
    every = [p.numel() for p in networks["student"].parameters()]
    training = Training(OverOneBase(), networks["student"], networks.get, TrainSettings(steps=9), 0, CPU)
    measured = footprint.measure(training, *FixedBatches(footprint.BATCH)[0])
    shared = sum(p.numel() for p in networks["student"].parameters() if not p.requires_grad)
    assert 0 < shared < sum(every)
    assert (measured.trained, measured.frozen) == (sum(every) - shared, sum(every))


def test_ways_to_compute_follow_from_what_was_measured():
    held = Footprint(weights=40, gradients=40, moments=80, averages=40, activations=0, replaced=0)
    measured = TrainingCosts(
        10, 0, held, Activations(10, 3), Activations(10, 1), gathered=12, least_gradients=40
    )
    whole = measured.footprint(Engaged(share=20, micro_batch=20, recompute=False))
    assert (whole.activations, whole.replaced, whole.total) == (70, 40, 200 + 70 - 40)
    parts = measured.footprint(Engaged(share=20, micro_batch=5, recompute=True))
    assert (parts.activations, parts.replaced, parts.total) == (15, 0, 215)
    shared = measured.footprint(Engaged(share=5, micro_batch=20, recompute=True, shards=4))
    assert (shared.weights, shared.activations, shared.total) == (10, 27, 50 + 27 - 10)


def test_a_rise_is_the_most_that_is_held_at_a_time():
    def work():
        for _ in range(3):
            torch.empty(2**20, dtype=torch.uint8)
        held = [torch.empty(2**20, dtype=torch.uint8) for _ in range(2)]
        del held

    assert footprint.rise(work, CPU) == pytest.approx(2 * 2**20, abs=4096)


def test_what_a_shard_gathers_is_two_blocks_one_gradient_and_the_rest():
    network = nn.Sequential(nn.Linear(1, 1, bias=False), nn.ModuleList([nn.Linear(1, 1), nn.Linear(2, 2)]))
    assert footprint._gathered(network) == 4 * (1 + 3 * 6)
