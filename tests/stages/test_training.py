"""Training as stages do it: what they refuse, and a training that several processes share."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from fewstep import grids
from fewstep.checkpoint import load_model
from fewstep.errors import UserError
from fewstep.methods.flow_matching import FlowMatching
from fewstep.methods.straighten import Straighten
from fewstep.model import ModelConfig, build
from fewstep.progress import SILENT
from fewstep.settings import TrainSettings
from fewstep.shards import write_shards
from stages._knots import at_knots
from stages._runner import Job
from stages._training import train_model

SETTINGS = TrainSettings(steps=20, batch=16)
FINE = grids.uniform(4)


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    monkeypatch.setenv("FEWSTEP_DEVICE", "cpu")
    monkeypatch.delenv("FEWSTEP_PROCESSES", raising=False)


def job_in(folder):
    for name in ("out", "scratch"):
        (folder / name).mkdir(parents=True)
    places = {"out": folder / "out", "scratch": folder / "scratch"}
    return Job(
        stage="pretrain",
        key=None,
        seed=0,
        inputs={},
        result="pretrain.0",
        progress=SILENT,
        picture=lambda *_: None,
        **places,
    )


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Points, and their states at five times, as prepare and trajectories would write them."""
    folder = tmp_path_factory.mktemp("shards")
    states = torch.randn(64, 5, 2, generator=torch.Generator().manual_seed(0))
    for kind, tensors in {"data": states[:, 0], "states": states}.items():
        for split in ("train", "held_out"):
            write_shards(folder / kind / split, 64, 32, lambda a, b: {kind: tensors[a:b]}, facts={})  # noqa: B023
    return folder


def student(shape=(2,)):
    return build(ModelConfig(architecture={"name": "mlp", "width": 16}, shape=shape), seed=0)


def train(kind, shards, folder):
    """Train a student as pretrain would, or as distill would, and return the weights that are published."""
    job, model = job_in(folder), student()
    if kind == "data":
        train_model(job, FlowMatching(), model, SETTINGS, source=shards / kind)
    else:
        own = grids.uniform(2)
        model.config = replace(model.config, grid=own, trained_times="grid")
        select = partial(at_knots, list(FINE.times), own)
        train_model(job, Straighten(), model, SETTINGS, source=shards / kind, select=select)
    return list(load_model(job.out).parameters())


@pytest.mark.parametrize("kind", ["data", "states"])
def test_two_processes_train_to_the_weights_of_one(monkeypatch, tmp_path, shards, kind):
    one = train(kind, shards, tmp_path / "one")
    monkeypatch.setenv("FEWSTEP_PROCESSES", "2")
    two = train(kind, shards, tmp_path / "two")
    torch.testing.assert_close(two, one, atol=1e-5, rtol=0)
    assert not all(map(torch.equal, two, one))  # sums of halves round differently: there really were two
    assert (tmp_path / "two/scratch/start").exists()
    assert not torch.distributed.is_initialized()


def test_a_batch_that_processes_cannot_share_is_refused(monkeypatch, tmp_path, shards):
    monkeypatch.setenv("FEWSTEP_PROCESSES", "3")
    with pytest.raises(UserError, match="16 samples can't be shared equally by 3 processes"):
        train("data", shards, tmp_path)


@pytest.mark.parametrize("kind", ["data", "states"])
def test_a_model_of_another_shape_than_its_samples_is_refused_with_both(tmp_path, shards, kind):
    source = shards / kind
    with pytest.raises(UserError, match=rf"{source} holds samples of shape \(2,\), the model takes \(3,\)"):
        train_model(job_in(tmp_path), FlowMatching(), student((3,)), SETTINGS, source=source)


def test_fewer_samples_than_a_batch_are_refused_with_the_setting(tmp_path, shards):
    with pytest.raises(UserError, match=r"64 samples to train on.*batch of 65; lower pretrain\.train\.batch"):
        train_model(
            job_in(tmp_path), FlowMatching(), student(), replace(SETTINGS, batch=65), source=shards / "data"
        )
