"""What goes together: a range of guidance, split blocks, an adapter and bfloat16; a head and conditions."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from fewstep import checkpoint, grids, lora, randomness
from fewstep.exporting import folder
from fewstep.flow import as_flow
from fewstep.lora_settings import LoraSettings
from fewstep.methods.dmd import Dmd
from fewstep.methods.flow_map_distillation import FlowMapDistillation
from fewstep.methods.phased import Phased
from fewstep.model import Model, ModelConfig, build
from fewstep.settings import TrainSettings
from fewstep.solvers import integrate
from fewstep.training.needed_inputs import with_needed
from fewstep.training.networks import Training

KEYS = randomness.keys_of(0, 0, 8)
LABELS = torch.arange(8) % 2
ADAPTERS = pytest.mark.parametrize("adapter", [None, LoraSettings(rank=2)], ids=["whole", "adapter"])
PRECISIONS = pytest.mark.parametrize("precision", ["float32", "bfloat16"])


def dit(seed=0, **config):
    architecture = {"name": "dit", "width": 16, "heads": 2, "depth": 2}
    model = build(ModelConfig(architecture=architecture, shape=(1, 4, 4), classes=2, **config), seed=seed)
    draw = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=draw)
    return model


def images(key):
    return randomness.noises(key, KEYS, (1, 4, 4))


def trained(method, student, teacher, precision, batch, adapter, steps=3):
    """Return the student after some steps, as an adapter over its weights if there is one."""
    if adapter is not None:
        student = lora.with_lora(student, adapter, seed=0)
    settings = TrainSettings(steps=steps, precision=precision, learning_rate=0.01)
    training = Training(method, student, lambda name: teacher, settings, 0, torch.device("cpu"))
    for _ in range(steps):
        training.take_step(batch, KEYS)
    return training.modules["student"]


def split_student():
    method = FlowMapDistillation(guidance=(1, 4))
    student = with_needed(dit(), method.needs, split_after=1, seed=0)
    return method, Model(
        replace(student.config, **method.trained()), student.network, student.conditions.table
    )


@ADAPTERS
@PRECISIONS
def test_a_split_student_learns_a_range_of_guidance(adapter, precision):
    method, student = split_student()
    batch = {"data": images("data"), "label": LABELS}
    student = trained(method, student, dit(), precision, batch, adapter)
    with torch.no_grad():
        near, far = (
            integrate(as_flow(student, guidance=scale), images("noise"), grids.uniform(2), label=LABELS).x
            for scale in (1.0, 4.0)
        )
    assert near.isfinite().all()
    assert not torch.equal(near, far)  # the input of guidance starts as nothing, and has learned


def test_a_split_student_of_a_range_of_guidance_is_exported_at_one_scale(tmp_path):
    _, student = split_student()
    checkpoint.save_model(tmp_path / "model", student)
    grid = grids.uniform(2, guidance=2.0)
    told = folder.export(tmp_path / "model", grid, tmp_path / "out", guidance=2.0, formats=["pt2"])
    assert max(told.values()) < 1e-5


@ADAPTERS
@PRECISIONS
def test_a_head_on_the_fake_network_goes_with_guidance_conditions_and_labels(adapter, precision):
    conditions = {"mask": (1, 4, 4)}
    method = Dmd(
        gan_weight=1.0, gan_loss="logistic", critic_sees="noised", critic="fake", guidance=2.0, r1_weight=0.1
    )
    student = dit(conditions=conditions, grid=grids.uniform(2), trained_times="grid")
    batch = {"data": images("data"), "label": LABELS, "mask": images("mask")}
    student = trained(method, student, dit(1, conditions=conditions), precision, batch, adapter, steps=1)
    assert all(weight.isfinite().all() for weight in student.parameters())


class Given(nn.Module):
    """A velocity that is a condition."""

    def forward(self, x, t, mask):
        return mask


def test_phases_from_data_are_solved_and_learned_under_the_conditions_of_the_data():
    facts = {"architecture": {"name": "given"}, "shape": (1, 4, 4), "conditions": {"mask": (1, 4, 4)}}
    teacher = Model(ModelConfig(**facts), Given())
    student = Model(ModelConfig(**facts, grid=grids.uniform(2), trained_times="grid"), Given())
    method, batch = Phased(learn_from="data"), {"data": images("data"), "mask": images("mask")}
    losses = method.loss({"student": student, "teacher": teacher}, batch, "student", 0.0, KEYS)
    assert losses.max() < 1e-6
    chords = method.solved(
        {"student": student, "teacher": teacher}, batch["data"], {"mask": batch["mask"]}, KEYS
    )
    torch.testing.assert_close(chords.end - chords.start, batch["mask"] / 2)
