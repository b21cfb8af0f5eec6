"""The nets that prepare trains are the same, whether several processes train them or one after another."""

import pytest
import torch
from jobs import job_in

from fewstep.metrics.denoiser import MONITOR, train_denoiser
from fewstep.metrics.nets import KINDS, train_nets
from fewstep.metrics.saved import as_saved
from fewstep.rows import Changed
from fewstep.shards import Column, write_shards
from stages import prepare
from stages.preparing import nets
from stages.workers import spread

LABELS = torch.arange(40) % 3


def trained(folder, pictures):
    shards = write_shards(folder / "train", 40, 30, lambda a, b: {"data": pictures[a:b]}, facts={})
    seen = Changed(Column(shards, "data"), as_saved)
    steps = {"metric_nets": {"steps": 2}, "monitor_net": {"steps": 2}}
    job, config = job_in(folder, "prepare"), prepare.Config(source="digits", **steps)
    first = nets.train_and_save(job, config, seen, LABELS, pixels=True)
    return first, {path.name: path.read_bytes() for path in job.out.iterdir()}


@pytest.mark.parametrize("processes", [True, False])
def test_they_are_the_same_whoever_trains_them(tmp_path, monkeypatch, processes):
    pictures = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    monkeypatch.setattr(nets, "WORTH_WORKERS", 2)
    monkeypatch.setenv("FEWSTEP_WORKERS", "2" if processes else "1")
    others = []
    share_out = spread.share_out
    monkeypatch.setattr(spread, "share_out", lambda *a, **b: others.append(1) or share_out(*a, **b))
    first, files = trained(tmp_path, pictures)
    assert bool(others) == processes
    alone = train_nets(as_saved(pictures), LABELS, pixels=True, steps=2, clusters=10, seed=0)
    assert first.digest == alone[KINDS[0].name].digest
    assert sorted(files) == sorted(
        f"{name}{end}" for name in [*alone, MONITOR] for end in (".json", ".safetensors")
    )
    alone[MONITOR] = train_denoiser(as_saved(pictures), pixels=True, steps=2, seed=0)
    for name, net in alone.items():
        assert net.digest.encode() in files[f"{name}.json"]


@pytest.mark.parametrize("why", ["few steps", "ray"])
def test_processes_are_not_asked_where_they_would_not_help(tmp_path, monkeypatch, why):
    monkeypatch.setattr(nets, "WORTH_WORKERS", 100 if why == "few steps" else 2)
    monkeypatch.setenv("FEWSTEP_BACKEND", "ray" if why == "ray" else "processes")
    monkeypatch.setattr(nets, "spread", None)
    assert trained(tmp_path, torch.zeros(40, 1, 8, 8))[1]
