"""Micro-batches and recomputed blocks: the same training in less memory."""

from itertools import product

import pytest
import torch
from recorded import VARIANTS, FixedBatches, Recorder, run, student, student_of, teacher
from torch import nn

from fewstep import grids, randomness
from fewstep.errors import UserError
from fewstep.methods.consistency import Consistency
from fewstep.methods.dmd import Dmd
from fewstep.methods.flow_matching import FlowMatching
from fewstep.methods.sim import Sim
from fewstep.model import ModelConfig, build
from fewstep.networks.unet import Level
from fewstep.settings import TrainSettings
from fewstep.training.engine import blocks
from fewstep.training.memory import OutOfMemoryError, explained
from fewstep.training.networks import Training
from fewstep.training.sharding import shard

SETTINGS = TrainSettings(steps=12, batch=8)
UNET = {"name": "unet", "width": 8, "multipliers": [1, 2], "blocks": 2}


def trained(folder, method, settings=SETTINGS):
    batches = FixedBatches(settings.batch)
    return run(
        folder,
        method=method,
        model=student_of(method),
        load=teacher,
        settings=settings,
        batches=batches,
    )


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


DERIVED = ["eulerian", "continuous, exact", "anyflow"]
"""Variants of methods that differentiate, or pass through the student several times."""
ON_ITS_FAKE = "dmd with a critic on its fake network"


@pytest.mark.parametrize(
    ("method", "size"),
    [
        *product([FlowMatching(), Dmd(), Sim(), Consistency()], ["3", "100"]),
        *product([VARIANTS[name] for name in (*DERIVED, ON_ITS_FAKE)], ["3"]),
    ],
)
def test_any_micro_batch_gives_the_same_training_but_for_rounding(tmp_path, monkeypatch, method, size):
    whole = trained(tmp_path / "whole", method)
    monkeypatch.setenv("FEWSTEP_MICRO_BATCH", size)
    parts = trained(tmp_path / "parts", method)
    torch.testing.assert_close(weights(parts.model), weights(whole.model), atol=2e-5, rtol=0)
    assert parts.loss == pytest.approx(whole.loss, rel=1e-4)
    assert parts.held_out_loss == pytest.approx(whole.held_out_loss, rel=1e-4)
    if int(size) >= SETTINGS.batch:
        assert torch.equal(weights(parts.model), weights(whole.model))


def test_a_batch_is_prepared_whole_before_it_is_cut(monkeypatch):
    seen = []

    class Watching(FlowMatching):
        def prepare_batch(self, batch, keys, law):
            seen.append(("all", len(keys)))
            return super().prepare_batch(batch, keys, law)

        def loss(self, nets, batch, network, progress, keys):
            seen.append(("some", len(keys)))
            return super().loss(nets, batch, network, progress, keys)

    monkeypatch.setenv("FEWSTEP_MICRO_BATCH", "3")
    training = Training(Watching(), student(), {}.get, SETTINGS, 0, torch.device("cpu"))
    batch, keys = FixedBatches(8)[0]
    training.take_step(batch | {"weight": torch.ones(8)}, keys)
    assert seen == [("all", 8), ("some", 3), ("some", 3), ("some", 2)]


COMPILED = [FlowMatching(), VARIANTS["eulerian"], VARIANTS["meanflow on data, exact"]]


@pytest.mark.parametrize("method", COMPILED, ids=["plain", "derived", "exactly derived"])
def test_blocks_are_compiled_and_nothing_else(tmp_path, monkeypatch, method):
    compiled, traced = [], torch.compile

    def compile_(function):
        compiled.append(function)
        return traced(function, backend="eager")

    plain = trained(tmp_path / "plain", method)
    monkeypatch.setattr(torch, "compile", compile_)
    monkeypatch.setenv("FEWSTEP_COMPILE", "on")
    again = trained(tmp_path / "again", method)
    networks = [student_of(method), *([teacher()] if method.needs.teacher else [])]
    assert len(compiled) - 1 == sum(len(list(blocks(each))) for each in networks)  # and that which tries it
    torch.testing.assert_close(weights(again.model), weights(plain.model), atol=2e-5, rtol=0)


def test_without_a_compiler_one_line_says_so_and_the_bytes_are_the_same(tmp_path, monkeypatch):
    plain = trained(tmp_path / "plain", FlowMatching())

    def fail(function):
        raise RuntimeError("No working C++ compiler found\nin many lines")

    monkeypatch.setattr(torch, "compile", fail)
    monkeypatch.setenv("FEWSTEP_COMPILE", "on")
    again = run(
        tmp_path / "again",
        method=FlowMatching(),
        model=student_of(FlowMatching()),
        settings=SETTINGS,
        progress=(recorder := Recorder()),
    )
    (note,) = recorder.notes
    assert "nothing can be compiled here (No working C++ compiler found); blocks stay" in note
    assert torch.equal(weights(again.model), weights(plain.model))


def test_channels_last_changes_the_layout_and_numbers_by_rounding(monkeypatch):
    def stepped():
        model = build(ModelConfig(architecture=UNET, shape=(1, 8, 8)), seed=0)
        training = Training(FlowMatching(), model, {}.get, TrainSettings(steps=9), 0, torch.device("cpu"))
        keys = randomness.keys_of(0, 0, 8)
        for _ in range(3):
            training.take_step({"data": randomness.noises("x", keys, (1, 8, 8))}, keys)
        return training

    plain = stepped()
    monkeypatch.setenv("FEWSTEP_CHANNELS_LAST", "on")
    last = stepped()
    torch.testing.assert_close(
        weights(last.modules["student"]), weights(plain.modules["student"]), atol=1e-4, rtol=0
    )
    images = [p for p in last.modules["student"].parameters() if p.dim() == 4 and p.shape[-1] > 1]
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in images)
    saved = last.tensors()
    last.restore({name: tensor.contiguous() for name, tensor in saved.items()})
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in images)


RECOMPUTED = {"flow_matching": FlowMatching(), "consistency": Consistency(), "sim": Sim()} | {
    name: VARIANTS[name] for name in (*DERIVED, ON_ITS_FAKE)
}


@pytest.mark.parametrize("method", RECOMPUTED.values(), ids=RECOMPUTED.keys())
def test_recomputed_blocks_give_the_same_bytes(tmp_path, monkeypatch, method):
    plain = trained(tmp_path / "plain", method)
    monkeypatch.setenv("FEWSTEP_RECOMPUTE", "on")
    again = trained(tmp_path / "again", method)
    assert torch.equal(weights(again.model), weights(plain.model))
    assert (again.loss, again.held_out_loss) == (plain.loss, plain.held_out_loss)
    states = [(tmp_path / name / "train_state.safetensors").read_bytes() for name in ("plain", "again")]
    assert states[0] == states[1]


def most_kept(training, batch, keys):
    """Return how many bytes one step keeps for its backward passes when there are most of them."""
    held, most = {}, 0

    def pack(tensor):
        nonlocal most
        held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        most = max(most, sum(held.values()))
        return tensor

    def unpack(tensor):
        held.clear()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        training.take_step(batch, keys)
    return most


def test_micro_batches_and_recomputation_keep_less_for_the_backward_pass(monkeypatch):
    def kept():
        model = build(ModelConfig(architecture=UNET, shape=(1, 8, 8), grid=grids.uniform(2)), seed=0)
        training = Training(FlowMatching(), model, {}.get, TrainSettings(steps=9), 0, torch.device("cpu"))
        keys = randomness.keys_of(0, 0, 32)
        return most_kept(training, {"data": randomness.noises("x", keys, (1, 8, 8))}, keys)

    whole = kept()
    monkeypatch.setenv("FEWSTEP_MICRO_BATCH", "8")
    parts = kept()
    monkeypatch.setenv("FEWSTEP_RECOMPUTE", "on")
    both = kept()
    assert parts < 0.4 * whole
    assert both < 0.6 * parts


def test_a_weight_that_has_no_parts_is_named():
    network = nn.Module()
    network.scale = nn.Parameter(torch.zeros(()))
    with pytest.raises(UserError, match="FEWSTEP_SHARD: scale is a single number"):
        shard(network, [])


def test_blocks_are_what_lists_of_modules_hold():
    unet = build(ModelConfig(architecture=UNET, shape=(1, 8, 8)), seed=0)
    found = list(blocks(unet))
    assert sum(isinstance(block, Level) for block in found) == 4
    assert not any(inner in found for block in found for inner in list(block.modules())[1:])
    named = nn.Sequential(nn.ModuleDict({"a": nn.Linear(1, 1)}), nn.Linear(1, 1))
    assert list(blocks(named)) == [named[0]["a"]]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("FEWSTEP_MICRO_BATCH", "0", "must be a number of samples from 1, got '0'"),
        ("FEWSTEP_MICRO_BATCH", "half", "must be a number of samples from 1, got 'half'"),
        ("FEWSTEP_RECOMPUTE", "yes", "must be on or off, got 'yes'"),
        ("FEWSTEP_SHARD", "2", "must be on or off, got '2'"),
        ("FEWSTEP_OFFLOAD", "on", "moves weights that are shared out; set FEWSTEP_SHARD=on, too"),
        ("FEWSTEP_COMPILE", "1", "must be on or off, got '1'"),
        ("FEWSTEP_CHANNELS_LAST", "yes", "must be on or off, got 'yes'"),
    ],
)
def test_wrong_values_are_named(tmp_path, monkeypatch, name, text, message):
    monkeypatch.setenv(name, text)
    with pytest.raises(UserError, match=f"{name} {message}"):
        run(tmp_path, settings=SETTINGS, progress=Recorder())


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nGPU 0 has ..."),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:128] DefaultCPUAllocator: can't allocate memory: you ..."
        ),
        MemoryError(),
    ],
)
def test_no_memory_is_reported_in_one_message_with_what_helps(monkeypatch, error):
    with (
        pytest.raises(OutOfMemoryError, match=r"FEWSTEP_MICRO_BATCH=32 \(it is 64\) or FEWSTEP_RECOMPUTE=on"),
        explained(64),
    ):
        raise error
    monkeypatch.setenv("FEWSTEP_MICRO_BATCH", "1")
    monkeypatch.setenv("FEWSTEP_RECOMPUTE", "on")
    with pytest.raises(OutOfMemoryError) as caught, explained(64):
        raise error
    assert "Use more devices (FEWSTEP_PROCESSES) that share the weights (FEWSTEP_SHARD=on):" in str(
        caught.value
    )
    assert "run the stage again and it goes on" in str(caught.value)


def test_other_errors_stay_what_they_are():
    with pytest.raises(RuntimeError, match="shapes"), explained(8):
        raise RuntimeError("shapes do not match")


def test_a_network_that_is_too_large_for_this_machine_is_reported():
    with pytest.raises(OutOfMemoryError, match="out of memory"), explained(8):
        torch.empty(2**58)
