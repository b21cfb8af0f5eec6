"""Training as stages do it: what they refuse, and a training that several processes share."""

from dataclasses import asdict, dataclass, replace
from functools import partial

import pytest
import torch
from jobs import Listener, job_in

from fewstep import grids, randomness
from fewstep.checkpoint import load_model
from fewstep.conditions import Table
from fewstep.errors import UserError
from fewstep.methods.flow_matching import FlowMatching
from fewstep.methods.reflow import Reflow
from fewstep.methods.straighten import Straighten
from fewstep.metrics import denoiser, features
from fewstep.metrics.denoiser import train_denoiser
from fewstep.metrics.monitor import Monitor
from fewstep.model import ModelConfig, build
from fewstep.pairs import mirror_half
from fewstep.settings import MonitorSettings, TrainSettings
from fewstep.shards import Batches, Shards, write_shards
from fewstep.training.method import Method, Needs
from stages.artifacts import manifests
from stages.settings.fields import Plugin
from stages.training import task as tasks
from stages.training.task import Parts, Selected, at_timesteps
from stages.training.training import TrainingSpec, student_of, train_model

SETTINGS = TrainSettings(steps=20, batch=16)
FINE = grids.uniform(4)


@pytest.fixture(autouse=True)
def alone(monkeypatch, forked_processes):
    monkeypatch.setenv("FEWSTEP_DEVICE", "cpu")
    monkeypatch.delenv("FEWSTEP_PROCESSES", raising=False)


def test_a_student_of_another_architecture_starts_from_fresh_weights():
    config = ModelConfig(
        architecture={"name": "mlp", "width": 8}, shape=(2,), classes=3, path="vp", prediction="noise"
    )
    init, changes = build(config, seed=1), {"baked_guidance": 2.0}
    same = student_of(init, changes, None, seed=0)
    assert same.network is init.network
    assert same.config == replace(config, baked_guidance=2.0)
    smaller = Plugin("fewstep.models").decode({"name": "mlp", "width": 4, "depth": 1})
    first, again, other = (student_of(init, changes, smaller, seed=seed) for seed in (0, 0, 1))
    assert first.config == replace(same.config, architecture=smaller.named())
    assert sum(p.numel() for p in first.parameters()) < sum(p.numel() for p in init.parameters())
    weights = [torch.cat([p.flatten() for p in model.parameters()]) for model in (first, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


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
    job, model = job_in(folder, "pretrain"), student()
    if kind == "data":
        train_model(job, TrainingSpec(FlowMatching(), model, SETTINGS, source=shards / kind))
    else:
        own = grids.uniform(2)
        model.config = replace(model.config, grid=own, trained_times="grid")
        select = partial(at_timesteps, list(FINE.times), own)
        train_model(job, TrainingSpec(Straighten(), model, SETTINGS, source=shards / kind, select=select))
    return list(load_model(job.out).parameters())


@pytest.mark.parametrize("kind", ["data", "states"])
def test_two_processes_train_to_the_weights_of_one(monkeypatch, tmp_path, shards, kind):
    one = train(kind, shards, tmp_path / "one")
    monkeypatch.setenv("FEWSTEP_PROCESSES", "2")
    two = train(kind, shards, tmp_path / "two")
    torch.testing.assert_close(two, one, atol=1e-5, rtol=0)
    assert not all(map(torch.equal, two, one))  # sums of halves round differently: there really were two
    assert (tmp_path / "two/work/start").exists()
    assert not torch.distributed.is_initialized()


@pytest.fixture(scope="module")
def couplings(tmp_path_factory):
    """Images paired with noise, as couple would write them: as they are, and to be mirrored."""
    folder = tmp_path_factory.mktemp("couplings")
    noise = randomness.noises("test", randomness.keys_of(0, 0, 96), (1, 2, 2))
    for name, facts in {"plain": {}, "mirrored": {"mirror": True}}.items():
        for split, start, stop in (("train", 0, 64), ("held_out", 64, 96)):
            part = noise[start:stop]
            write_shards(
                folder / name / split,
                stop - start,
                32,
                lambda a, b: {"noise": part[a:b], "data": part[a:b] + 1},  # noqa: B023
                facts=facts,
            )
    checks = {"checks": {"cost": 4.0}, "problems": [], "advice": ["be wary"], "train": 64}
    nothing = dict.fromkeys(manifests.FIELDS)
    manifests.write(folder / "plain" / manifests.NAME, nothing | {"facts": checks})
    return folder


def test_a_training_on_pairs_tells_of_them_and_of_its_loss_on_fresh_ones(tmp_path, couplings):
    said = []
    source = couplings / "plain"
    made = {"inputs": {"pairs": source, "data": tmp_path}, "manifests": {"pairs": manifests.read(source)}}
    job = replace(job_in(tmp_path, "pretrain", **made), progress=Listener(said))
    train_model(job, TrainingSpec(Reflow(), student((1, 2, 2)), SETTINGS, source=couplings / "plain"))
    told = job.facts["pair_loss"]
    assert told.keys() == {"train", "held_out", "ratio", "difference_se", "advice"}
    assert told["held_out"] == pytest.approx(job.facts["held_out_loss"], rel=1e-6)
    assert told["ratio"] == pytest.approx(told["held_out"] / told["train"])
    assert job.facts["pairs"] == {"checks": {"cost": 4.0}, "problems": [], "advice": ["be wary"]}
    assert said == [told["advice"]]
    assert "64 pairs are enough" in told["advice"]


def test_a_profile_lies_beside_other_state_and_is_sent_to_the_tracker(monkeypatch, tmp_path, shards):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setenv("FEWSTEP_PROFILE", "2")
    sent = []
    job = replace(job_in(tmp_path, "distill", "boss-4"), attach=lambda *which: sent.append(which))
    train_model(job, TrainingSpec(FlowMatching(), student(), SETTINGS, source=shards / "data"))
    folder = tmp_path / ".fewstep/profiles/distill@boss-4"
    assert sent == [("profile", folder / name) for name in ("profile.txt", "trace.json.gz")]
    assert all(file.stat().st_size for _, file in sent)
    monkeypatch.delenv("FEWSTEP_PROFILE")
    train_model(job, TrainingSpec(FlowMatching(), student(), SETTINGS, source=shards / "data"))
    assert len(sent) == 2


def test_samples_that_are_judged_are_read_a_batch_at_a_time(couplings):
    shards, numbers = Shards(couplings / "plain/train"), torch.tensor([3, 5, 40, 41, 63])
    seen = []

    def select(batch, keys):
        seen.append(len(batch["data"]))
        return batch | {"keys": keys}

    parts = Parts(shards, numbers, select, size=2, seed=7)
    for _ in range(2):
        together = {name: torch.cat([part[name] for part in parts]) for name in ("noise", "data", "keys")}
        assert torch.equal(together["data"], shards.load()["data"][numbers])
        assert torch.equal(together["noise"], shards.load()["noise"][numbers])
        assert torch.equal(together["keys"], randomness.keys_of(7, 0, 5))
    assert seen == [2, 2, 1] * 6  # three names, twice


def test_only_so_many_held_out_samples_are_judged(tmp_path, monkeypatch, couplings):
    monkeypatch.setattr(tasks, "MOST_HELD_OUT", 10)
    job = job_in(tmp_path, "pretrain", inputs={"data": tmp_path})
    trained = train_model(
        job, TrainingSpec(Reflow(), student((1, 2, 2)), SETTINGS, source=couplings / "plain")
    )
    assert trained.known_losses.shape == trained.fresh_losses.shape == (10,)


def test_a_training_on_data_tells_of_no_pairs(tmp_path, shards):
    job = job_in(tmp_path, "pretrain")
    train_model(job, TrainingSpec(FlowMatching(), student(), SETTINGS, source=shards / "data"))
    assert not job.facts.keys() & {"pairs", "pair_loss"}


def test_half_of_the_batches_are_mirrored_if_the_pairs_are_marked_so(couplings):
    def batches(name):
        stored = Batches(Shards(couplings / name / "train"), seed=0, size=16)
        mirror = stored.shards.facts.get("mirror", False)
        return Selected(stored, lambda batch, keys: batch, mirror=mirror)

    (plain, keys), (mirrored, same_keys) = batches("plain")[3], batches("mirrored")[3]
    assert torch.equal(keys, same_keys)
    torch.testing.assert_close(mirrored["data"], mirrored["noise"] + 1)
    assert torch.equal(mirrored["noise"], mirror_half(plain, keys)["noise"])
    assert not torch.equal(mirrored["noise"], plain["noise"])


def test_mirrored_pairs_make_another_model(tmp_path, couplings):
    def weights(name):
        job = job_in(tmp_path / name, "pretrain")
        train_model(job, TrainingSpec(Reflow(), student((1, 2, 2)), SETTINGS, source=couplings / name))
        return list(load_model(job.out).parameters())

    assert not all(map(torch.equal, weights("plain"), weights("mirrored")))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Points with the monitor's net of them, as prepare would leave them."""
    folder = tmp_path_factory.mktemp("prepared")
    points = torch.randn(64, 2, generator=torch.Generator().manual_seed(1))
    write_shards(folder / "train", 64, 32, lambda a, b: {"data": points[a:b]}, facts={})
    features.save(folder, train_denoiser(points, steps=5, seed=0), {}, name=denoiser.MONITOR)
    return folder


@pytest.mark.parametrize("count", ["1", "2"])
def test_a_watched_training_publishes_the_weights_that_the_monitor_picked(
    monkeypatch, tmp_path, shards, prepared, count
):
    monkeypatch.setenv("FEWSTEP_PROCESSES", count)
    said, own, settings = [], grids.uniform(2), MonitorSettings(samples=100, looks=2)
    job = replace(
        job_in(tmp_path, "distill", inputs={"data": prepared, "nets": prepared}), progress=Listener(said)
    )
    model = student()
    model.config = replace(model.config, grid=own, trained_times="grid")
    select = partial(at_timesteps, list(FINE.times), own)
    source = shards / "states"
    train_model(
        job, TrainingSpec(Straighten(), model, SETTINGS, source=source, select=select, monitor=settings)
    )
    told = job.facts["monitor"]
    assert told["looks"] == 3
    assert any(f"the monitor picked the weights of step {told['picked']['step']}" in line for line in said)
    data = Shards(prepared / "train").load()["data"]
    monitor = Monitor(features.load(prepared, name=denoiser.MONITOR)[0], data, settings, seed=0)
    look = monitor.look(load_model(job.out), told["picked"]["step"])
    assert asdict(look) == pytest.approx(told["picked"])


def test_a_training_without_a_monitor_tells_of_none(tmp_path, shards):
    job = job_in(tmp_path, "pretrain")
    train_model(job, TrainingSpec(FlowMatching(), student(), SETTINGS, source=shards / "data"))
    assert not job.facts.keys() & {"monitor", "skipped_updates"}


@dataclass(frozen=True, kw_only=True)
class Listening(Method):
    """Keeps what it is given to learn from."""

    heard: list
    needs = Needs(stream="noise")

    def loss(self, nets, batch, network, progress, keys):
        self.heard.append((batch, keys))
        weights = sum(weight.square().sum() for weight in nets["student"].parameters())
        return weights.expand(len(keys))


def test_conditions_that_the_data_lacks_are_drawn_for_each_batch_from_the_models_own(tmp_path, shards):
    place = torch.arange(8.0)[:, None].expand(8, 2).numpy()
    architecture = {"name": "mlp", "width": 16}
    config = ModelConfig(architecture=architecture, shape=(2,), conditions={"place": (2,)})
    model, heard = build(config, seed=0, table=Table(rows={"place": place})), []
    job, listening = job_in(tmp_path, "distill"), Listening(heard=heard)
    train_model(job, TrainingSpec(listening, model, SETTINGS, shards / "data"))
    taken = [each for each in heard if each[1][0, 0] == 0]  # those of held-out samples have another seed
    assert len(taken) == SETTINGS.steps
    for batch, keys in taken:
        assert torch.equal(batch["place"], model.conditions.drawn("train.conditions", keys)["place"])
    assert len({row for batch, _ in heard for row in batch["place"][:, 0].tolist()}) == 8
    other = job_in(tmp_path / "b", "x")
    with pytest.raises(UserError, match="the training data must give the model its condition place"):
        train_model(other, TrainingSpec(FlowMatching(), model, SETTINGS, shards / "data"))


def test_a_batch_that_processes_cannot_share_is_refused(monkeypatch, tmp_path, shards):
    monkeypatch.setenv("FEWSTEP_PROCESSES", "3")
    with pytest.raises(UserError, match="16 samples can't be shared equally by 3 processes"):
        train("data", shards, tmp_path)


@pytest.mark.parametrize("kind", ["data", "states"])
def test_a_model_of_another_shape_than_its_samples_is_refused_with_both(tmp_path, shards, kind):
    source = shards / kind
    with pytest.raises(UserError, match=rf"{source} holds samples of shape \(2,\), the model takes \(3,\)"):
        train_model(
            job_in(tmp_path, "pretrain"), TrainingSpec(FlowMatching(), student((3,)), SETTINGS, source=source)
        )


def test_fewer_samples_than_a_batch_are_refused_with_the_setting(tmp_path, shards):
    with pytest.raises(
        UserError, match=r"64 samples to train on.*batch of 65; lower pretrain\.mine\.train\.batch"
    ):
        train_model(
            job_in(tmp_path, "pretrain", "mine"),
            TrainingSpec(FlowMatching(), student(), replace(SETTINGS, batch=65), shards / "data"),
        )
