"""What the plan of a training's memory says, and what it asks of the machine."""

import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from jobs import job_in

from fewstep.errors import UserError
from fewstep.methods.flow_matching import FlowMatching
from fewstep.model import ModelConfig, build
from fewstep.settings import MonitorSettings, TrainSettings
from fewstep.shards import write_shards
from fewstep.training.footprint import Activations, Engaged, Footprint, TrainingCosts
from stages.run import runner
from stages.training import memory_plan
from stages.training.memory_plan import MIB, MemoryPlan, plan_memory
from stages.training.training import TrainingSpec

HELD = Footprint(40 * MIB, 40 * MIB, 80 * MIB, 40 * MIB, 0, 0)
MEASURED = TrainingCosts(
    10 * MIB, 0, HELD, Activations(0, 8 * MIB), Activations(0, 2 * MIB), 6 * MIB, 40 * MIB
)


def planned(**changes):
    facts = {
        "measured": MEASURED,
        "batch": 64,
        "way": Engaged(64, 64, False),
        "ranks": 1,
        "free": 400 * MIB,
        "data": 5 * MIB,
        "on_cpu": False,
        "copies": 1,
        "shardable": True,
    }
    return MemoryPlan(**facts | changes)


def test_a_plan_tells_each_kind_and_what_would_fit():
    lines = planned().lines()
    assert lines[0].startswith("10,485,760 parameters are trained, 0 are not; batch 64, 64 samples at a time")
    told = dict(re.findall(r"^(\w+) +([\d,]+) MiB", "\n".join(lines), re.M))
    kinds = {"weights": "40", "gradients": "40", "moments": "80", "averages": "40", "activations": "512"}
    assert told == kinds | {"data": "5", "saves": "160"}
    assert "at most            672 MiB, does not fit; 400 MiB are free" in lines
    verdicts = dict(re.findall(r"^with (.+?)  +([\d,]+ MiB, .*)$", "\n".join(lines), re.M))
    assert verdicts == {
        "FEWSTEP_MICRO_BATCH=16": "328 MiB, fits",
        "FEWSTEP_RECOMPUTE=on": "288 MiB, fits",
        "FEWSTEP_MICRO_BATCH=32 FEWSTEP_RECOMPUTE=on": "264 MiB, fits",
        "FEWSTEP_PROCESSES=2": "416 MiB, does not fit",
        "FEWSTEP_PROCESSES=2 FEWSTEP_SHARD=on": "342 MiB, fits",
        "FEWSTEP_PROCESSES=2 FEWSTEP_SHARD=on FEWSTEP_OFFLOAD=on": "262 MiB, fits",
        "FEWSTEP_PROCESSES=8": "224 MiB, fits",
        "FEWSTEP_PROCESSES=8 FEWSTEP_SHARD=on": "90 MiB, fits",
        "FEWSTEP_PROCESSES=8 FEWSTEP_SHARD=on FEWSTEP_OFFLOAD=on": "70 MiB, fits",
    }


def test_offloaded_weights_are_in_the_memory_of_the_machine():
    lines = planned(way=Engaged(32, 32, False, 2, offloaded=True), ranks=2).lines()
    assert "weights             20 MiB (in the memory of the machine, not of the GPU)" in lines
    assert "activations        262 MiB" in lines
    assert "at most            262 MiB, fits; 400 MiB are free" in lines


def test_on_the_processor_data_and_saves_count_too():
    assert "at most            837 MiB" in "\n".join(planned(on_cpu=True).lines())


def test_settings_that_are_set_already_are_not_suggested():
    lines = "\n".join(planned(way=Engaged(64, 1, True), batch=63).lines())
    assert "MICRO_BATCH" not in lines
    assert "RECOMPUTE" not in lines
    assert "PROCESSES" not in lines  # two or eight can't share 63 samples equally


def test_adapters_are_not_offered_shards():
    lines = "\n".join(planned(shardable=False).lines())
    assert "FEWSTEP_PROCESSES=8 " in lines
    assert "SHARD" not in lines


def test_where_nothing_fits_the_least_memory_is_reported():
    assert "with FEWSTEP_MICRO_BATCH=1 " in "\n".join(planned(free=1).lines())


def test_a_training_has_no_price_and_is_not_measured_for_one(monkeypatch):
    monkeypatch.setattr(runner, "read_plan", pytest.fail)
    with pytest.raises(UserError, match="--price is for stages that make samples; distill trains"):
        runner.show_plan("distill", "boss-4", 2.5)


def test_a_training_is_measured_as_it_would_be_made(tmp_path, monkeypatch):
    monkeypatch.setenv("FEWSTEP_DEVICE", "cpu")
    monkeypatch.setenv("FEWSTEP_PROCESSES", "2")
    monkeypatch.setenv("FEWSTEP_SHARD", "on")
    monkeypatch.setenv("FEWSTEP_MICRO_BATCH", "4")
    for split in ("train", "held_out"):
        write_shards(tmp_path / split, 64, 32, lambda a, b: {"data": torch.zeros(b - a, 2)}, facts={})
    student = build(ModelConfig(architecture={"name": "mlp", "width": 16}, shape=(2,)), seed=0)
    spec = TrainingSpec(FlowMatching(), student, TrainSettings(steps=4, batch=16), tmp_path)
    plan = plan_memory(job_in(tmp_path, "pretrain"), replace(spec, monitor=MonitorSettings()))
    assert plan.measured.trained == sum(p.numel() for p in student.parameters())
    assert plan.way == Engaged(share=8, micro_batch=4, recompute=False, shards=2)
    assert (plan.batch, plan.ranks, plan.data, plan.on_cpu, plan.copies) == (16, 2, 64 * 2 * 4, True, 2)
    assert plan.free > 0


V1 = {"memory/memory.usage_in_bytes": 1000, "memory/memory.stat": "inactive_file 9\ntotal_inactive_file 200"}
V2 = {"memory.current": 3000, "memory.stat": "anon 2500\ninactive_file 500\nactive_file 0"}


@pytest.mark.parametrize(
    ("files", "left"),
    [
        ({"memory.max": 4096} | V2, 1596),
        ({"memory.max": 2000} | V2, 0),
        ({"memory/memory.limit_in_bytes": 4096} | V1, 3296),
        ({"memory.max": "max"} | V2, None),
        ({"memory/memory.limit_in_bytes": 2**63 - 4096} | V1, None),
        ({}, None),
    ],
)
def test_a_container_may_be_allowed_less_than_is_free(tmp_path, monkeypatch, files, left):
    monkeypatch.setenv("FEWSTEP_DEVICE", "cpu")
    monkeypatch.setattr(memory_plan, "CGROUPS", tmp_path)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"{text}\n")
    monkeypatch.setattr(memory_plan.psutil, "virtual_memory", lambda: SimpleNamespace(available=2**40))
    assert memory_plan.free_memory() == (2**40 if left is None else left)
