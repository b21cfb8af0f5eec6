"""Real data beside pairs: which samples of it a method is given, and a training with a critic."""

from dataclasses import dataclass, replace

import pytest
import torch
from jobs import job_in
from test_across_sections import ANY_STEP, changed

from fewstep import grids
from fewstep.checkpoint import load_model, save_model
from fewstep.methods.dmd import Dmd
from fewstep.model import ModelConfig, build
from fewstep.settings import TrainSettings
from fewstep.shards import Batches, Shards, write_shards
from fewstep.training.method import Method, Needs, real_batch
from stages.settings import checks
from stages.settings.params import Params
from stages.training.training import TrainingSpec, train_model

SETTINGS = TrainSettings(steps=4, batch=8)
SHAPE = (2,)


@pytest.fixture
def inputs(tmp_path, monkeypatch, forked_processes):
    """Pairs, and real samples that are others and fewer, as couple and prepare would write them."""
    monkeypatch.setenv("FEWSTEP_DEVICE", "cpu")
    monkeypatch.delenv("FEWSTEP_PROCESSES", raising=False)
    draw = torch.Generator().manual_seed(0)
    pairs, real = torch.randn(64, *SHAPE, generator=draw), 10 + torch.randn(48, *SHAPE, generator=draw)
    for split in ("train", "held_out"):
        write_shards(
            tmp_path / "pairs" / split,
            64,
            32,
            lambda a, b: {"noise": pairs[a:b], "data": -pairs[a:b]},
            facts={},
        )
        write_shards(tmp_path / "real" / split, 48, 32, lambda a, b: {"data": real[a:b]}, facts={})
    return {"data": tmp_path / "real", "train_on": tmp_path / "pairs"}


def student():
    config = ModelConfig(
        architecture={"name": "mlp", "width": 8, "depth": 1}, shape=SHAPE, grid=grids.uniform(1)
    )
    return build(config, seed=0)


@dataclass(frozen=True, kw_only=True)
class Both(Method):
    """Keeps what it is given to learn from."""

    heard: list
    needs = Needs(stream="pairs", data=True)

    def loss(self, nets, batch, network, progress, keys):
        if torch.is_grad_enabled():
            self.heard.append({name: tensor.clone() for name, tensor in batch.items()})
        return sum(weight.sum() for weight in nets["student"].parameters()).expand(len(keys))


def test_a_batch_of_pairs_has_as_many_real_samples_beside_them(inputs, tmp_path):
    method = Both(heard=[])
    job = job_in(tmp_path, "distill", inputs=inputs)
    train_model(job, TrainingSpec(method, student(), SETTINGS, source=inputs["train_on"]))
    stored = Batches(Shards(inputs["data"] / "train"), seed=job.seed, size=8)
    assert len(method.heard) == 4
    for step, batch in enumerate(method.heard):
        assert torch.equal(real_batch(batch)["data"], stored[step][0]["data"])
        assert torch.equal(batch["data"], -batch["noise"])
    noise_alone = {"data": torch.zeros(3, 2)}
    assert real_batch(noise_alone) is noise_alone


def test_a_critic_and_a_regression_learn_in_one_training(inputs, tmp_path):
    method = Dmd(gan_weight=1.0, regression_weight=0.5, fake_warmup=0)
    assert (method.needs.stream, method.needs.data) == ("pairs", True)
    teacher = student()
    teacher.config = replace(teacher.config, grid=None)

    save_model(tmp_path / "teacher", teacher)
    job = job_in(tmp_path, "distill", inputs=inputs | {"teacher": tmp_path / "teacher"})
    before = [weight.clone() for weight in student().parameters()]
    trained = train_model(job, TrainingSpec(method, student(), SETTINGS, source=inputs["train_on"]))
    assert trained.skipped == 0
    after = load_model(job.out).parameters()
    assert not all(map(torch.equal, before, after))


def test_real_data_comes_beside_pairs_and_trajectories():
    both = {"name": "dmd", "gan_weight": 0.1, "regression_weight": 0.5}
    checks.check(
        Params(changed(distill__one_at_step__method=both, distill__one_at_step__train_on="couple/round1"))
    )
    raw = changed(**ANY_STEP)
    raw["distill"]["near"] = raw["distill"]["any-step"] | {"init": "any-step"}
    raw["distill"]["near"]["method"] = {"name": "anyflow", "map_weight": 1.0, "gan_weight": 0.1}
    checks.check(Params(raw))
