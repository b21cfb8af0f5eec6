import json
import os
import resource
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import fsspec
import pytest
import torch
import webdataset

from fewstep import randomness
from fewstep.errors import UserError
from fewstep.shards import Batches, Shards, write_shards

FACTS = {"about": "test", "seed": 0}


def make(start, stop):
    keys = randomness.keys_of(0, start, stop)
    return {"data": randomness.noises("test", keys, (1, 2, 2)), "label": torch.arange(start, stop) % 10}


def write(folder, total=1000, per_shard=300, make=make, **options):
    return write_shards(folder, total, per_shard, make, **{"facts": FACTS, **options})


def contents(folder):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def test_what_is_read_is_what_was_made(tmp_path):
    shards = write(tmp_path)
    made, read = make(0, 1000), shards.load()
    assert read.keys() == made.keys()
    assert all(torch.equal(read[name], made[name]) for name in made)
    assert shards.samples == 1000
    assert shards.facts == FACTS
    assert shards.fields["data"] == {"dtype": "float32", "shape": [1, 2, 2]}
    assert shards.fields["label"] == {"dtype": "int64", "shape": []}
    assert [file.samples for file in shards.files] == [300, 300, 300, 100]
    assert torch.equal(shards.read(1)["data"], made["data"][300:600])
    assert torch.equal(shards.load(limit=301)["data"], made["data"][:301])
    assert shards.load(limit=5000)["label"].shape == (1000,)


def test_fields_may_share_memory_in_any_layout(tmp_path):
    images = torch.randn(10, 3, 4, 4).to(memory_format=torch.channels_last)
    shards = write(tmp_path, 10, 5, lambda start, stop: {"a": images[start:stop], "b": images[start:stop]})
    assert torch.equal(shards.load()["a"], images)
    assert torch.equal(shards.load()["b"], images)


def test_webdataset_reads_them(tmp_path):
    write(tmp_path)
    samples = list(webdataset.WebDataset(str(tmp_path / "shard-00001.tar"), shardshuffle=False))
    assert [(s["__key__"], "safetensors" in s) for s in samples] == [("00000300", True), ("00000556", True)]


def test_equal_samples_make_equal_bytes(tmp_path):
    assert write(tmp_path / "a").digest == write(tmp_path / "b").digest
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_floats_may_be_stored_in_half_the_space(tmp_path, dtype):
    def images(start, stop):
        return {"data": randomness.noises("test", randomness.keys_of(0, start, stop), (3, 16, 16))}

    half = write(tmp_path / "half", 300, make=images, dtypes={"data": dtype})
    full = write(tmp_path / "full", 300, make=images)
    read = half.load()["data"]
    assert read.dtype == torch.float32
    assert torch.equal(read, full.load()["data"].to(getattr(torch, dtype)).float())
    assert half.fields["data"]["dtype"] == dtype
    assert half.files[0].bytes < 0.6 * full.files[0].bytes


def test_codes_are_read_as_floats(tmp_path):
    codes = torch.arange(256, dtype=torch.uint8).reshape(4, 1, 8, 8)
    shards = write(
        tmp_path, 4, 2, lambda start, stop: {"data": codes[start:stop]}, affine={"data": (2 / 255, -1)}
    )
    read = shards.load()["data"]
    assert (read.min(), read.max()) == (-1, 1)
    torch.testing.assert_close(read, codes.float() / 127.5 - 1)
    assert shards.fields["data"]["dtype"] == "uint8"
    batch, _ = Batches(shards, seed=0, size=4).at(0)
    assert batch["data"].dtype == torch.float32


class StopHereError(Exception):
    pass


def stopping_at(sample):
    def stopped(start, stop):
        if start >= sample:
            raise StopHereError
        return make(start, stop)

    return stopped


def test_resumes_with_the_bytes_of_an_uninterrupted_run(tmp_path):
    write(tmp_path / "whole")
    with pytest.raises(StopHereError):
        write(tmp_path / "half", make=stopping_at(600))
    assert sorted(contents(tmp_path / "half")) == ["shard-00000.tar", "shard-00001.tar"]
    with pytest.raises(UserError, match=r"no finished shards.*run the stage"):
        Shards(tmp_path / "half")
    (tmp_path / "half" / "shard-00002.tar.tmp").write_bytes(b"left over")
    made = []
    write(tmp_path / "half", make=lambda start, stop: made.append(start) or make(start, stop))
    assert made == [600, 900]
    assert contents(tmp_path / "half") == contents(tmp_path / "whole")


def test_progress_counts_kept_shards_as_done(tmp_path):
    class Listener:
        def __init__(self):
            self.told = []

        def start(self, label, total, *, done=0, unit="step"):
            self.told.append((total, done, unit))

        def advance(self, units=1, **values):
            self.told.append(units)

    with pytest.raises(StopHereError):
        write(tmp_path, make=stopping_at(600))
    listener = Listener()
    write(tmp_path, progress=listener)
    assert listener.told == [(4, 2, "shard"), 1, 1]


def test_survives_sigkill(tmp_path):
    script = f"""
        import sys, time, torch
        sys.path[:0] = [{str(Path(__file__).parent)!r}]
        from test_shards import make, write
        from pathlib import Path
        def slowly(start, stop):
            time.sleep(0.2)
            return make(start, stop)
        write(Path({str(tmp_path / "killed")!r}), make=slowly)
    """
    child = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], cwd=Path(__file__).parents[1])
    deadline = time.monotonic() + 60
    while not (tmp_path / "killed" / "shard-00001.tar").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert not (tmp_path / "killed" / "shards.json").exists()
    write(tmp_path / "killed")
    write(tmp_path / "whole")
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_damaged_shards_and_those_of_other_facts_are_made_again(tmp_path):
    write(tmp_path / "a")
    shard = tmp_path / "a" / "shard-00000.tar"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:5000])
    write(tmp_path / "a")
    assert shard.read_bytes() == whole
    other = write(tmp_path / "a", 500, make=lambda start, stop: make(start + 7, stop + 7), facts={"seed": 1})
    assert torch.equal(other.load()["data"], make(7, 507)["data"])
    assert sorted(contents(tmp_path / "a")) == ["shard-00000.tar", "shard-00001.tar", "shards.json"]


@pytest.fixture
def room():
    """Return a function that lets no file grow beyond so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_named_and_what_is_finished_kept(tmp_path, room):
    def filling(start, stop):
        room(10**6 if start < 600 else 10_000)
        return make(start, stop)

    with pytest.raises(UserError) as error:
        write(tmp_path / "full", make=filling)
    room(10**6)
    shard = len(contents(tmp_path / "full")["shard-00000.tar"])
    assert f"no room in {tmp_path / 'full'} for shard-00002.tar of {shard} bytes" in str(error.value)
    assert f"free about {2 * shard} bytes" in str(error.value)
    assert sorted(contents(tmp_path / "full")) == ["shard-00000.tar", "shard-00001.tar"]
    write(tmp_path / "full")
    write(tmp_path / "whole")
    assert contents(tmp_path / "full") == contents(tmp_path / "whole")


def test_a_sample_that_is_not_finite_is_refused(tmp_path):
    def diverging(start, stop):
        data = torch.ones(stop - start, 3)
        data[7] = float("nan")
        return {"data": data}

    with pytest.raises(UserError, match=r"field 'data' of sample 7 isn't finite"):
        write(tmp_path, make=diverging)
    with pytest.raises(UserError, match=r"sample 0 isn't finite when stored as float16"):
        write(
            tmp_path,
            make=lambda start, stop: {"data": torch.full((stop - start, 1), 1e6)},
            dtypes={"data": "float16"},
        )


def test_storage_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"unknown storage type 'float15'; did you mean 'float16'\?"):
        write(tmp_path, dtypes={"data": "float15"})
    with pytest.raises(UserError, match=r"unknown field 'date'; did you mean 'data'\?"):
        write(tmp_path, dtypes={"date": "float16"})
    with pytest.raises(UserError, match="unknown field 'image'"):
        write(tmp_path, affine={"image": (1, 0)})


def test_counts_below_one_are_refused(tmp_path):
    with pytest.raises(UserError, match="total 0"):
        write(tmp_path, 0)
    with pytest.raises(UserError, match="per_shard 0"):
        write(tmp_path, 10, 0)


def flip(path):
    damaged = bytearray(path.read_bytes())
    damaged[2000] ^= 1
    path.write_bytes(damaged)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "is missing"),
        (lambda path: path.write_bytes(path.read_bytes()[:-512]), "cut or altered"),
        (lambda path: path.write_bytes(b""), "cut or altered"),
        (flip, "sha256"),
    ],
)
def test_damage_is_refused_by_name(tmp_path, damage, message):
    shards = write(tmp_path)
    damage(tmp_path / "shard-00002.tar")
    for act in (
        shards.verify,
        shards.load,
        lambda: shards.read(2),
        lambda: Batches(shards, seed=0, size=8).at(0),
    ):
        with pytest.raises(UserError, match=rf"shard-00002\.tar.*{message}.*run the stage"):
            act()
    shards.read(1)


def test_a_shard_in_another_ones_place_is_refused(tmp_path):
    shards = write(tmp_path)
    os.replace(tmp_path / "shard-00000.tar", tmp_path / "shard-00001.tar")
    with pytest.raises(UserError, match="altered"):
        shards.read(1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda index: index["shards"][0].update(name="../secret.tar"), "contradicts itself"),
        (lambda index: index.update(samples=7), "contradicts itself"),
        (lambda index: index.update(version=0), "version 0"),
        (lambda index: index.pop("facts"), "damaged"),
    ],
)
def test_a_bad_index_is_refused(tmp_path, change, message):
    write(tmp_path)
    index = json.loads((tmp_path / "shards.json").read_text())
    change(index)
    (tmp_path / "shards.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=message):
        Shards(tmp_path)


def test_an_index_that_tells_of_other_fields_is_refused(tmp_path):
    write(tmp_path)
    text = (tmp_path / "shards.json").read_text().replace('"float32"', '"float16"')
    (tmp_path / "shards.json").write_text(text)
    with pytest.raises(UserError, match=r"doesn't hold what shards\.json says"):
        Shards(tmp_path).read(0)


def test_reads_through_fsspec(tmp_path):
    shards = write(tmp_path)
    files = fsspec.filesystem("memory")
    files.put(str(tmp_path), "/shards-test", recursive=True)
    remote = Shards("memory://shards-test")
    assert remote.digest == shards.digest
    assert torch.equal(remote.load()["data"], shards.load()["data"])
    files.rm("/shards-test/shard-00003.tar")
    with pytest.raises(UserError, match=r"shard-00003\.tar is missing"):
        remote.verify()
    files.rm("/shards-test", recursive=True)


def test_unreadable_urls_are_refused():
    with pytest.raises(UserError, match="nonsense"):
        Shards("nonsense://bucket/shards")


def keys_seen(batches, steps):
    return torch.cat([batches.at(step)[0]["number"] for step in steps]).tolist()


@pytest.fixture
def numbered(tmp_path):
    return write(tmp_path, 250, 40, lambda start, stop: {"number": torch.arange(start, stop)})


@pytest.mark.parametrize("window", [1, 90, 65536])
def test_every_epoch_holds_each_sample_once_in_its_own_order(numbered, window):
    batches = Batches(numbered, seed=3, size=64, window=window)
    seen = keys_seen(batches, range(16))  # 1024 samples: four epochs and a bit
    epochs = [seen[start : start + 250] for start in range(0, 1000, 250)]
    assert all(sorted(epoch) == list(range(250)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    other = keys_seen(Batches(numbered, seed=4, size=64, window=window), range(4))
    assert other != seen[:256]


def test_the_order_is_that_of_no_shard(numbered):
    seen = keys_seen(Batches(numbered, seed=0, size=50, window=100), [0])
    assert len({number // 40 for number in seen}) == 2  # a window of two shards, mixed
    assert seen != sorted(seen)


@pytest.mark.parametrize("window", [90, 65536])
def test_a_step_does_not_depend_on_the_steps_before(numbered, window):
    walked = Batches(numbered, seed=0, size=64, window=window)
    in_order = [walked.at(step)[0]["number"].tolist() for step in range(10)]
    for step in (9, 3, 4, 0):
        assert walked.at(step)[0]["number"].tolist() == in_order[step]
        assert (
            Batches(numbered, seed=0, size=64, window=window).at(step)[0]["number"].tolist() == in_order[step]
        )


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_share_a_batch(numbered, ranks):
    whole = Batches(numbered, seed=0, size=64, window=90)
    parts = [Batches(numbered, seed=0, size=64, window=90, rank=rank, ranks=ranks) for rank in range(ranks)]
    for step in range(5):
        numbers, keys = whole.at(step)
        shared = [part.at(step) for part in parts]
        assert torch.equal(torch.cat([batch["number"] for batch, _ in shared]), numbers["number"])
        assert torch.equal(torch.cat([keys for _, keys in shared]), keys)


def test_keys_never_repeat(numbered):
    batches = Batches(numbered, seed=5, size=64)
    assert batches.at(3)[1].tolist() == [[5, 3 * 64 + position] for position in range(64)]


def test_a_batch_may_hold_several_epochs(numbered):
    batch, _ = Batches(numbered, seed=0, size=500).at(0)
    assert sorted(batch["number"].tolist()) == sorted(2 * list(range(250)))


def test_uneven_batches_are_refused(numbered):
    with pytest.raises(UserError, match=r"10 samples.*3 processes"):
        Batches(numbered, seed=0, size=10, rank=0, ranks=3)
    with pytest.raises(UserError, match="0 samples"):
        Batches(numbered, seed=0, size=0)


def test_memory_is_bounded_by_the_window(numbered, monkeypatch):
    read, held = Shards.read_stored, []
    monkeypatch.setattr(Shards, "read_stored", lambda self, number: held.append(number) or read(self, number))
    batches = Batches(numbered, seed=0, size=10, window=90)
    for step in range(25):
        batches.at(step)
    assert sorted(held) == list(range(7))  # each shard once an epoch
    assert len(batches._stored[1]["number"]) <= 90
