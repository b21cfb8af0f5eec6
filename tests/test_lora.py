"""Students that are trained as a low-rank adapter over weights that they share with their teacher."""

import json
from dataclasses import replace
from functools import partial

import pytest
import torch
from foreign.adopted import NETWORKS, adopted
from recorded import ON_POLICY, FixedBatches, Recorder, run, student, student_of
from safetensors.torch import load_file
from torch import nn

from fewstep import checkpoint, grids, registry
from fewstep.errors import UserError
from fewstep.guidance_input import with_guidance_input
from fewstep.lora import merged, share, trainable_copy, with_lora
from fewstep.lora_settings import LoraSettings
from fewstep.methods.dmd import Dmd
from fewstep.methods.flow_matching import FlowMatching
from fewstep.model import ModelConfig, build
from fewstep.networks.embedding import Span
from fewstep.networks.lora import must_learn_what_is_added
from fewstep.settings import TrainSettings
from fewstep.timing import with_second_time
from fewstep.training.networks import Training

LORA = LoraSettings(rank=2, alpha=4)
METHODS = [  # a refiner's weights are drawn, so that there is no base
    name
    for name in registry.available("fewstep.methods")
    if not registry.find("fewstep.methods", name)().needs.last_velocity
]


def moved(model, seed=0):
    """Move the weights that are trained, some of which begin as zeros."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(0.1 * torch.randn(weight.shape, generator=generator))
    return model


def own(name):
    """Return a model of one of the project's architectures."""
    architecture, shape = {
        "mlp": ({"name": "mlp", "width": 16, "depth": 1}, (2,)),
        "unet": ({"name": "unet", "width": 8, "attention": True}, (1, 8, 8)),
    }[name]
    return moved(build(ModelConfig(architecture=architecture, shape=shape, classes=3), seed=0).eval())


def answer(model):
    """Return what a model says of a few samples."""
    generator = torch.Generator().manual_seed(1)
    config = model.config
    given = {name: torch.randn(3, *shape, generator=generator) for name, shape in config.conditions.items()}
    if config.classes:
        given["label"] = torch.tensor([0, 2, 1])
    x = torch.randn(3, *config.shape, generator=generator)
    with torch.no_grad():
        return model(x, torch.tensor([0.1, 0.5, 0.9]), **given)


MODELS = [partial(own, "mlp"), partial(own, "unet"), *(partial(adopted, name) for name in NETWORKS)]


@pytest.mark.parametrize("make", MODELS, ids=lambda make: make.args[0])
def test_an_adapter_starts_as_its_base_and_comes_back_from_its_directory(make, tmp_path):
    base = make()
    before = answer(base)
    checkpoint.save_model(tmp_path / "base", base)
    adapter = with_lora(base, LORA, seed=0, base="of the base")
    torch.testing.assert_close(answer(adapter), before)
    names = {name for name, weight in adapter.named_parameters() if weight.requires_grad}
    assert names
    assert all(".lora_A." in name or ".lora_B." in name for name in names)

    after = answer(moved(adapter))
    assert (after - before).abs().max() > 1e-3
    checkpoint.save_model(tmp_path / "student", adapter)
    files = [(tmp_path / folder / "model.safetensors").read_bytes() for folder in ("base", "student")]
    assert files[0] == files[1]  # one file for a store that goes by content
    assert checkpoint.model_digest(tmp_path / "base") != checkpoint.model_digest(tmp_path / "student")
    told = json.loads((tmp_path / "student/config.json").read_text())
    assert told["lora"] == {"rank": 2, "alpha": 4.0, "targets": None}
    assert told["lora_base"] == "of the base"
    assert "lora" not in json.loads((tmp_path / "base/config.json").read_text())

    whole = checkpoint.load_model(tmp_path / "student")
    assert whole.config.lora is None
    assert whole.state_dict().keys() == checkpoint.load_model(tmp_path / "base").state_dict().keys()
    torch.testing.assert_close(answer(whole), after, rtol=1e-4, atol=1e-5)
    again = checkpoint.load_model(tmp_path / "student", merge=False)
    assert torch.equal(answer(again), after)
    assert {name for name, weight in again.named_parameters() if weight.requires_grad} == names
    checkpoint.save_model(tmp_path / "again", again)
    assert checkpoint.model_digest(tmp_path / "again") == checkpoint.model_digest(tmp_path / "student")


def test_weights_of_an_adapter_depend_on_the_seed_alone():
    first, same, other = (with_lora(own("mlp"), LORA, seed=seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"targets": ["to_q"]}, r"no layer 'to_q'; names end for example with time\.0, time\.2, first"),
        ({"targets": ["blocks.0.norm"]}, r"blocks\.0\.norm is of type LayerNorm; linear layers and conv"),
        ({"targets": ["last"], "rank": 3}, r"rank 3 is above that of the weights of last, 2; take a lower"),
        ({"rank": 16}, r"rank 16 makes no layer of the network smaller; take a lower one"),
        ({"rank": 0}, "rank must be 1 or more, got 0"),
        ({"alpha": -1}, "alpha must be a positive number"),
        ({"targets": "to_q"}, r"targets must be a list of names of layers, such as \[to_q\]"),
        ({"targets": []}, "targets must be names of layers, or null for all"),
    ],
)
def test_networks_that_can_not_be_adapted_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        with_lora(own("mlp"), LoraSettings(**settings), seed=0)


def test_targets_are_layers_whose_names_end_so():
    model = with_lora(own("unet"), LoraSettings(rank=2, targets=("qkv", "attention.out")), seed=0)
    names = {name.partition(".lora_")[0] for name, weight in model.named_parameters() if weight.requires_grad}
    assert names == {"network.attention.qkv", "network.attention.out"}


def test_an_adapter_goes_on_with_the_same_settings_alone():
    adapter = with_lora(own("mlp"), LORA, seed=0, base="a")
    assert with_lora(adapter, LORA, seed=1, base="b") is adapter
    with pytest.raises(UserError, match=r"is an adapter already, of rank 2, alpha 4 and targets None"):
        with_lora(adapter, replace(LORA, rank=1), seed=0)
    with pytest.raises(UserError, match=r"second time would be another base"):
        with_second_time(adapter, seed=0)
    assert with_lora(merged(adapter), replace(LORA, rank=1), seed=0).config.lora.rank == 1


@pytest.mark.parametrize("missing", ["lora.safetensors", "model.safetensors"])
def test_a_directory_without_a_file_is_reported(missing, tmp_path):
    checkpoint.save_model(tmp_path, with_lora(own("mlp"), LORA, seed=0))
    (tmp_path / missing).unlink()
    with pytest.raises(UserError, match=rf"is no model directory: it has no {missing}"):
        checkpoint.load_model(tmp_path)


def trained(state, *, batches=None, method=None):
    """Train an adapter over a teacher that is loaded beside it, as a stage loads it."""
    base = moved(student(grid=grids.uniform(2)))
    return run(
        state,
        method=method or Dmd(fake_warmup=2),
        model=with_lora(base, LORA, seed=0),
        load=lambda name: moved(student()),
        settings=TrainSettings(steps=12, batch=8),
        batches=batches,
        progress=Recorder(),
    )


class StopError(Exception):
    pass


class Stopping(FixedBatches):
    def __getitem__(self, step):
        if step == 7:
            raise StopError
        return super().__getitem__(step)


ON_ITS_FAKE = ON_POLICY["dmd with a critic on its fake network"]


@pytest.mark.parametrize(
    "method", [Dmd(fake_warmup=2), ON_ITS_FAKE, FlowMatching()], ids=["dmd", "with a head", "flow_matching"]
)
def test_an_adapter_resumes_to_the_same_bytes_from_a_state_without_its_base(method, tmp_path, monkeypatch):
    whole = trained(tmp_path / "whole", method=method)
    monkeypatch.setenv("FEWSTEP_CHECKPOINT_SECONDS", "0")
    with pytest.raises(StopError):
        trained(tmp_path / "cut", batches=Stopping(8), method=method)
    cut = trained(tmp_path / "cut", method=method)
    for name, end in (("whole", whole), ("cut", cut)):
        checkpoint.save_model(tmp_path / name / "model", end.model)
    digests = {checkpoint.model_digest(tmp_path / name / "model") for name in ("cut", "whole")}
    assert len(digests) == 1
    checkpoint.save_model(tmp_path / "base", moved(student()))
    files = [tmp_path / folder / "model.safetensors" for folder in ("base", "whole/model")]
    assert files[0].read_bytes() == files[1].read_bytes()  # what was frozen
    names = load_file(tmp_path / "cut/train_state.safetensors")
    weights = {name for name in names if "/network" in name or "/average" in name}
    assert weights
    assert all(".lora_" in name or name.startswith("fake/network/head.") for name in weights)


def weights_of(training, name):
    return {weight.data_ptr(): weight for weight in training.modules[name].parameters()}


@pytest.mark.parametrize("method", [Dmd(), ON_ITS_FAKE], ids=["dmd", "with a head"])
def test_teacher_student_fake_and_average_share_one_base(method):
    base = moved(student(grid=grids.uniform(2)))
    memory = {weight.data_ptr() for weight in base.parameters()}
    adapter, settings = with_lora(base, LORA, seed=0), TrainSettings(steps=1, batch=8)
    training = Training(
        method, adapter, lambda name: moved(student()), settings, seed=0, device=torch.device("cpu")
    )
    assert weights_of(training, "teacher").keys() == memory
    for name in ("student", "fake"):
        held = weights_of(training, name)
        assert memory < held.keys()
        assert {held[place].requires_grad for place in memory} == {False}
        assert all(weight.requires_grad for place, weight in held.items() if place not in memory)
    average = training.trainees["student"].average
    assert memory < {weight.data_ptr() for weight in average.parameters()}
    own = [weights_of(training, name).keys() - memory for name in ("student", "fake")]
    assert not own[0] & own[1]


def test_a_base_that_is_trained_over_keeps_its_type():
    base = moved(student(grid=grids.uniform(2)))
    memory = {weight.data_ptr() for weight in base.parameters()}
    adapter = with_lora(base, LORA, seed=0)
    settings = TrainSettings(steps=1, batch=8, precision="bfloat16", frozen="bfloat16")
    training = Training(Dmd(), adapter, lambda name: moved(student()), settings, 0, torch.device("cpu"))
    assert weights_of(training, "teacher").keys() == memory
    for name in ("student", "teacher", "fake"):
        assert {weight.dtype for weight in training.modules[name].parameters()} == {torch.float32}


def test_only_equal_weights_are_shared():
    adapter = with_lora(moved(student()), LORA, seed=0)
    other = moved(student())
    with torch.no_grad():
        other.network.last.weight.add_(1)
    kept = other.network.last.weight
    share(other, adapter)
    assert other.network.last.weight is kept
    assert other.network.last.bias is adapter.network.last.bias
    whole = moved(student())
    before = list(whole.parameters())
    assert all(a is b for a, b in zip(share(whole, student()).parameters(), before, strict=True))


def test_a_copy_is_trained_as_the_student_is():
    teacher = moved(student())
    whole = trainable_copy(teacher, student())
    assert all(weight.requires_grad for weight in whole.parameters())
    assert not {id(p) for p in whole.parameters()} & {id(p) for p in teacher.parameters()}
    adapter = trainable_copy(teacher, with_lora(student(), LORA, seed=0))
    assert adapter.config.lora == LORA
    assert {id(p) for p in teacher.parameters()} < {id(p) for p in adapter.parameters()}


def test_sharded_weights_are_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("FEWSTEP_SHARD", "on")
    monkeypatch.setattr("fewstep.distributed.ranks", lambda: 2)
    with pytest.raises(UserError, match="FEWSTEP_SHARD shares out what is trained"):
        trained(tmp_path)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_trains_an_adapter(name, tmp_path):
    """One step moves the adapter and leaves the base."""
    method = registry.find("fewstep.methods", name)()
    steps = 4  # those of the trajectories
    try:
        method.check_steps(steps)
    except UserError:
        steps = 1
    base = student_of(method)
    if method.trained_times == "grid":
        base.config = replace(base.config, grid=grids.uniform(steps))
    moved(base)
    before = {name: weight.clone() for name, weight in base.network.named_parameters()}
    adapter = with_lora(base, LORA, seed=0)
    run(
        tmp_path,
        method=method,
        model=adapter,
        load=lambda which: moved(student()),
        settings=TrainSettings(steps=2, batch=8),
        progress=Recorder(),
    )
    after = {name.replace(".base_layer.", "."): w for name, w in adapter.network.named_parameters()}
    assert all(torch.equal(after[name], weight) for name, weight in before.items())
    assert any(weight.any() for name, weight in after.items() if ".lora_B." in name)


def grown(name):
    """Return a model with a second time and a scale of guidance as inputs."""
    facts = {
        "mlp": {"architecture": {"name": "mlp", "width": 16, "depth": 1}, "shape": (2,)},
        "dit": {"architecture": {"name": "dit", "width": 16, "depth": 1}, "shape": (1, 8, 8)},
    }[name]
    base = moved(build(ModelConfig(**facts, classes=3), seed=0).eval())
    return with_guidance_input(with_second_time(base, seed=1), seed=1)


def dependence(model, **by):
    """Return how far what a model says moves with an input of which `by` has two values."""
    x, t = torch.randn(3, *model.config.shape, generator=torch.Generator().manual_seed(1)), torch.zeros(3)
    given = {"until": torch.ones(3), "guidance": torch.full((3,), 2.0), "label": torch.tensor([0, 1, 2])}
    with torch.no_grad():
        first, second = (model(x, t, **given | {name: v[i] for name, v in by.items()}) for i in (0, 1))
    return float((first - second).abs().max())


TARGETS = {"mlp": ["blocks.0.first"], "dit": ["attn.qkv", "attn.proj"]}


@pytest.mark.parametrize("name", ["mlp", "dit"])
def test_an_adapter_that_could_not_learn_what_is_added_to_a_network_is_refused(name):
    model, targets = grown(name), TARGETS[name]
    for needed in ("until.2", "guidance.2"):
        message = rf"lora.targets leave out \S*{needed}, which starts at zero .* add {needed} to them"
        with pytest.raises(UserError, match=message):
            with_lora(model, LoraSettings(rank=2, targets=tuple(targets)), seed=0)
        targets = [*targets, needed]
    adapter = moved(with_lora(model, LoraSettings(rank=2, targets=tuple(targets)), seed=0))
    assert dependence(adapter, until=(torch.zeros(3), torch.ones(3))) > 1e-4
    assert dependence(adapter, guidance=(torch.ones(3), torch.full((3,), 4.0))) > 1e-4


def test_a_rank_that_leaves_out_what_is_added_is_refused():
    network = nn.ModuleDict({"wide": nn.Linear(64, 64), "until": Span(4, 8, 1.0)})
    with pytest.raises(UserError, match=r"lora\.rank 8 leaves out until\.2, .* take a lower one"):
        must_learn_what_is_added(network, LoraSettings(rank=8))
    must_learn_what_is_added(network, LoraSettings(rank=7))


def test_what_is_added_may_be_frozen_once_it_was_trained():
    model = moved(grown("mlp"))
    assert with_lora(model, LoraSettings(rank=2, targets=tuple(TARGETS["mlp"])), seed=0).config.lora
