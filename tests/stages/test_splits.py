"""Shards made by workers: the same bytes whoever makes them, wherever they are put, killed or not."""

import math
from pathlib import Path

import pytest
import torch
from jobs import job_in

from fewstep.checkpoint import load_model, save_model
from fewstep.errors import UserError
from fewstep.flow import FieldFlow
from fewstep.lora import with_lora
from fewstep.lora_settings import LoraSettings
from fewstep.model import ModelConfig, build
from fewstep.noises import GAUSSIAN
from stages.run import runner
from stages.sampling import open_model
from stages.sampling import splits as splits_module
from stages.sampling.estimate import WorkLeft, estimate, seconds_of_call
from stages.sampling.fastest_batch import fastest_batch
from stages.sampling.pairs import PairMaker
from stages.sampling.splits import splits

FACTS = {"about": "a test"}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    network = {"name": "mlp", "width": 8, "depth": 1}
    save_model(folder, build(ModelConfig(architecture=network, shape=(2,)), seed=0))
    return folder


def maker_of(model, **changes):
    options = {"purpose": "a test", "seed": 0, "solver": "euler", "nfe": 4, "spacing": "uniform"}
    options |= {"times": None, "tolerance": None, "guidance": 1.0, "precision": "float32", "batch": 16}
    options |= {"law": GAUSSIAN, "total": 240}
    return PairMaker(model=str(model), **options | changes)


def wanted(folder, **changes):
    options = {"train": 200, "held_out": 40, "per_shard": 50, "facts": FACTS, "dtypes": {"data": "float16"}}
    return splits(job_in(folder, "couple", "test"), **options | changes)


def bytes_of(folder):
    files = [file for file in (folder / "out").rglob("[!.]*") if file.is_file()]
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}


@pytest.fixture(scope="module")
def whole(model, tmp_path_factory):
    """What one process makes without a stop."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEWSTEP_WORKERS", "1")
        wanted(folder).make(maker_of(model))
    return bytes_of(folder)


def test_held_out_samples_are_numbered_after_those_to_train_on(model, tmp_path, monkeypatch):
    monkeypatch.setenv("FEWSTEP_WORKERS", "1")
    made = wanted(tmp_path).make(maker_of(model))
    opened = maker_of(model).open()
    assert [made[split].samples for split in ("train", "held_out")] == [200, 40]
    assert torch.equal(made["held_out"].load()["noise"], opened.make(200, 240)["noise"])
    assert made["train"].facts == FACTS | {"first": 0}


def test_any_number_of_workers_makes_the_same_bytes(model, whole, tmp_path, monkeypatch, begun):
    monkeypatch.setenv("FEWSTEP_WORKERS", "2")
    wanted(tmp_path).make(maker_of(model))
    assert bytes_of(tmp_path) == whole


def test_only_what_is_missing_is_made_again(model, whole, tmp_path, monkeypatch):
    monkeypatch.setenv("FEWSTEP_WORKERS", "1")
    wanted(tmp_path).make(maker_of(model))
    (tmp_path / "out/train/shard-00001.tar").write_bytes(b"cut")
    (tmp_path / "out/held_out/.shard-00000.tar.json").unlink()
    (tmp_path / "out/train/shard-00003.tar.77.tmp").write_bytes(b"left by a kill")
    made, make_one = [], splits_module.make_one
    monkeypatch.setattr(splits_module, "make_one", lambda item: made.append(item) or make_one(item))
    again = wanted(tmp_path)
    assert again.missing() == [("train", 1), ("held_out", 0)]
    again.make(maker_of(model))
    assert made == [("train", 1), ("held_out", 0)]
    assert bytes_of(tmp_path) == whole


@pytest.mark.parametrize("place", ["folder", "s3"])
def test_workers_may_put_shards_where_other_machines_reach_them(
    model, whole, tmp_path, monkeypatch, request, place
):
    shared = str(tmp_path / "shared") if place == "folder" else request.getfixturevalue("bucket")
    monkeypatch.setenv("FEWSTEP_SHARDS", shared)
    monkeypatch.setenv("FEWSTEP_WORKERS", "1")
    half = wanted(tmp_path, train=100)
    half.make(maker_of(model))
    assert set(half.store.below("model").sizes()) == {"model.safetensors", "config.json"}
    other = wanted(tmp_path / "other")
    assert other.missing() == [("train", 2), ("train", 3), ("held_out", 0)]  # held-out ones have new numbers
    other.make(maker_of(model))
    assert bytes_of(tmp_path / "other") == whole


def test_workers_find_the_adapter_of_a_model_where_other_machines_reach_it(model, tmp_path, monkeypatch):
    monkeypatch.setenv("FEWSTEP_SHARDS", str(tmp_path / "shared"))
    monkeypatch.setenv("FEWSTEP_WORKERS", "1")
    adapted = tmp_path / "adapted"
    adapted.mkdir()
    save_model(adapted, with_lora(load_model(model), LoraSettings(rank=2), seed=0))
    job = wanted(tmp_path)
    assert estimate(job, maker_of(adapted), checked=0).shards == [50] * 4 + [40]
    job.make(maker_of(adapted))
    assert "lora.safetensors" in job.store.below("model").sizes()
    assert not job.missing()


@pytest.mark.parametrize(
    ("shared", "told"),
    [
        ("/proc/x", r"FEWSTEP_SHARDS /proc/x can't be written \(No such file or directory\)"),
        ("{here}/file", r"FEWSTEP_SHARDS .*/file can't be written \(Not a directory\)"),
        ("s4://bucket", r"FEWSTEP_SHARDS: can't use s4://bucket \(ValueError: Protocol not known: s4\)"),
    ],
)
def test_a_place_that_workers_could_not_use_is_named(tmp_path, monkeypatch, shared, told):
    (tmp_path / "file").touch()
    monkeypatch.setenv("FEWSTEP_SHARDS", shared.format(here=tmp_path))
    with pytest.raises(UserError, match=told):
        wanted(tmp_path / "job")


def test_a_variable_that_names_no_place_leaves_shards_and_model_where_they_are(
    model, whole, tmp_path, monkeypatch
):
    monkeypatch.setenv("FEWSTEP_SHARDS", "")
    monkeypatch.setenv("FEWSTEP_WORKERS", "1")
    wanted(tmp_path).make(maker_of(model))
    assert bytes_of(tmp_path) == whole


class Small(torch.nn.Module):
    """A network on a device that has room for a few samples at a time."""

    def __init__(self, network, most, calls):
        super().__init__()
        self.network, self.most, self.calls = network, most, calls

    def forward(self, x, *inputs, **conditions):
        self.calls.append(len(x))
        if len(x) > self.most:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
        return self.network(x, *inputs, **conditions)


@pytest.fixture
def small(monkeypatch):
    """Have networks fit four samples in a call, and return the sizes of all calls."""
    calls, load = [], open_model.load_model

    def load_small(folder, **options):
        found = load(folder, **options)
        found.network = Small(found.network, 4, calls)
        return found

    monkeypatch.setattr(open_model, "load_model", load_small)
    monkeypatch.setenv("FEWSTEP_WORKERS", "1")
    return calls


def test_where_memory_runs_out_calls_are_halved_which_is_reported_and_kept_among_the_facts(
    model, whole, tmp_path, small, capsys
):
    plain = wanted(tmp_path / "plain").make(maker_of(model, batch=4))["train"].load()
    assert "rows_in_a_call" not in wanted(tmp_path / "plain").job.facts
    small.clear()
    told = wanted(tmp_path / "small")
    made = told.make(maker_of(model))["train"].load()
    assert small[:4] == [16, 8, 4, 4]
    assert max(small[4:]) == 4
    assert told.job.facts["rows_in_a_call"] == 4
    assert capsys.readouterr().out.count("out of memory (CUDA out of memory. Tried to allocate 2 GiB)") == 2
    torch.testing.assert_close(made["data"], plain["data"])
    again = wanted(tmp_path / "small")
    again.make(maker_of(model))  # nothing is left to make, but the facts are those of how it was made
    assert again.job.facts["rows_in_a_call"] == 4


def test_an_estimate_does_not_look_for_a_faster_batch_where_the_one_asked_for_does_not_fit(
    model, tmp_path, small
):
    assert estimate(wanted(tmp_path), maker_of(model), checked=0).fastest is None
    assert max(small[4:]) == 4


def test_a_place_that_workers_do_not_share_is_named(model, tmp_path, monkeypatch):
    monkeypatch.setattr(splits_module, "make_one", lambda item: None)
    monkeypatch.setenv("FEWSTEP_WORKERS", "1")
    with pytest.raises(UserError, match=r"shard-00000\.tar is missing though it was made: do all workers"):
        wanted(tmp_path).make(maker_of(model))


def work_left(**changes):
    left = {"shards": [10, 10, 10], "total": 40, "batch": 5, "nfe": 2, "checked": 0}
    return WorkLeft(**left | {"call_seconds": [1.0], "start_seconds": 0.0, "sample_bytes": 8} | changes)


def test_an_estimate_counts_calls_and_hands_shards_to_who_is_free():
    assert work_left().seconds == 12  # 30 samples are 6 batches of 2 calls
    assert work_left(call_seconds=[1.0, 1.0]).seconds == 8
    assert work_left(call_seconds=[1.0, 3.0]).seconds == 12  # the slow one is at its first for as long
    assert work_left(shards=[]).seconds == 0
    assert work_left(checked=0, start_seconds=3.0).seconds == 15
    assert "40 x 2 NFE, 5 at once; 30 are left" in work_left().lines()[0]
    assert work_left().lines()[3] == "bytes  320"
    assert work_left(start_seconds=3588).lines(2.5)[4] == "cost   2.50 at 2.5 an hour of a worker"


@pytest.mark.parametrize(
    ("times", "best"),
    [
        ({8: 8, 16: 4, 32: 2, 64: 2}, (32, 2)),  # doubled while that helps
        ({8: 8, 16: 7.9, 4: 7.9}, (8, 8)),  # by too little
        ({8: 8, 16: 9, 4: 5, 2: 3, 1: 2}, (1, 2)),
        ({8: 8, 16: 6, 32: 5, 64: 4, 128: 3}, (64, 4)),  # no more are in a shard
        ({8: 8, 16: 6, 32: RuntimeError("CUDA out of memory")}, (16, 6)),
    ],
)
def test_the_fastest_batch_is_found_by_trying(times, best):
    def seconds(size):
        if isinstance(times[size], Exception):
            raise times[size]
        return times[size]

    assert fastest_batch(seconds, 8, 100) == best


def test_what_is_wrong_with_a_call_is_not_taken_for_too_little_memory():
    def seconds(size):
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        fastest_batch(seconds, 8, 100)


def test_an_estimate_tells_of_a_faster_batch():
    found = work_left(call_seconds=[1.0, 3.0], fastest=(20, 0.2))  # two seconds for 5 samples are 0.4 each
    assert found.lines()[4] == "batch  20 would take 0.50 of the time; it changes results by rounding"
    assert len(work_left(fastest=(5, 0.2)).lines()) == len(work_left().lines()) == 4


@pytest.mark.parametrize(("nfe_per_velocity", "velocities"), [(1, 8), (2, 4)])
def test_an_estimate_makes_no_more_calls_than_the_work(nfe_per_velocity, velocities, monkeypatch):
    monkeypatch.setattr("stages.sampling.estimate.LEAST_SECONDS", math.inf)
    asked = []

    def velocity(x, t):
        asked.append(t)
        assert len(asked) < 100
        return x

    flow = FieldFlow(velocity)
    flow.nfe_per_velocity = nfe_per_velocity
    seconds_of_call(flow, torch.zeros(4, 2), {}, most=8)
    assert len(asked) == 1 + velocities  # one warms up


def test_an_estimate_for_one_process_counts_no_other(model, tmp_path, monkeypatch, begun):
    monkeypatch.setenv("FEWSTEP_WORKERS", "2")
    assert len(estimate(wanted(tmp_path), maker_of(model), checked=0).call_seconds) == 2
    assert len(estimate(wanted(tmp_path), maker_of(model), checked=0, alone=True).call_seconds) == 1


def test_an_estimate_leaves_what_is_there_alone(model, tmp_path, monkeypatch):
    monkeypatch.setenv("FEWSTEP_WORKERS", "1")
    wanted(tmp_path).make(maker_of(model))
    (tmp_path / "out/train/shard-00001.tar").unlink()
    before = bytes_of(tmp_path)
    found = estimate(wanted(tmp_path), maker_of(model), checked=40)
    assert (found.shards, found.total, found.sample_bytes) == ([50], 240, 2 * 4 + 2 * 2)
    assert found.seconds > 0
    assert 1 <= found.fastest[0] <= 50
    assert (
        estimate(wanted(tmp_path), maker_of(model), checked=40, opened=maker_of(model).open()).fastest is None
    )
    assert bytes_of(tmp_path) == before


@pytest.mark.parametrize("price", [math.nan, math.inf, -3.0])
def test_a_price_is_a_number_from_0(price):
    with pytest.raises(UserError, match=rf"--price must be .* a number from 0, got {price:g}"):
        runner.show_plan("couple", "round1", price)


def test_a_price_does_not_run_the_stage(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["stages.couple", "round1", "--price", "2"])
    monkeypatch.setattr(runner, "run", pytest.fail)
    with pytest.raises(SystemExit, match="couple@round1: --price is for the estimate; add --plan"):
        runner.main(Path("stages/couple.py"))
