import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch
from making import FACTS, contents, make, verify, write
from recorded import Recorder

from fewstep.errors import UserError
from fewstep.shards import (
    Recipe,
    Shards,
    Store,
    clear_leftovers,
    counted,
    fetch_shards,
    finish_shards,
    in_one_shard,
    missing_shards,
    write_shard,
)


def test_equal_samples_make_equal_bytes(tmp_path):
    assert write(tmp_path / "a").digest == write(tmp_path / "b").digest
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_a_shard_of_large_samples_has_fewer():
    small, large = torch.zeros(1, 3, 32, 32), torch.zeros(1, 3, 512, 512)
    assert in_one_shard(4096, {"data": small}) == 4096
    assert in_one_shard(4096, {"data": torch.zeros(1, 4, 64, 64)}) == 4096  # 256 MiB
    assert (
        in_one_shard(4096, {"data": large})
        == in_one_shard(4096, {"a": large[:, :1], "b": large[:, 1:]})
        == 85
    )
    assert in_one_shard(4096, {"data": large.byte()}) == 341
    assert in_one_shard(4096, {"data": torch.zeros(1, 1).expand(1, 2**29)}) == 1


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
    with pytest.raises(UserError, match=r"no finished shards.*make the set again"):
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
    assert listener.told == [(1000, 600, "sample"), 300, 100]


def test_survives_sigkill(tmp_path):
    script = f"""
        import sys, time, torch
        sys.path[:0] = [{str(Path(__file__).parent)!r}]
        from making import make, write
        from pathlib import Path
        def slowly(start, stop):
            time.sleep(0.2)
            return make(start, stop)
        write(Path({str(tmp_path / "killed")!r}), make=slowly)
    """
    child = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], cwd=Path(__file__).parents[2])
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


def flip(path, byte):
    damaged = bytearray(path.read_bytes())
    damaged[byte] ^= 1
    path.write_bytes(damaged)


@pytest.mark.parametrize(
    ("name", "damage", "told"),
    [
        ("shard-00001.tar", lambda path: flip(path, 2000), True),
        ("shard-00001.tar", lambda path: path.write_bytes(bytes(path.stat().st_size)), True),
        ("shard-00001.tar", lambda path: [path.unlink(), path.mkdir()], True),
        (".shard-00001.tar.counted", lambda path: flip(path, 0), True),
        (".shard-00001.tar.counted", Path.unlink, True),
        (".shard-00001.tar.json", lambda path: flip(path, path.read_bytes().index(b"1, 2, 2")), False),
        (".shard-00001.tar.json", lambda path: path.write_bytes(b""), False),
    ],
)
def test_a_resumed_set_makes_again_what_is_damaged_though_its_size_is_right(tmp_path, name, damage, told):
    recipe = Recipe(samples=1000, per_shard=300, facts=FACTS)
    store = Store(tmp_path)

    def fill(missing):
        for number in missing:
            write_shard(store, recipe, number, make, lambda fields: str(int(fields["label"].sum())))

    fill(range(recipe.shards))
    whole = finish_shards(store, recipe)
    digest, sums = whole.digest, list(counted(store, recipe))
    damage(tmp_path / name)
    clear_leftovers(store, recipe, recorder := Recorder())
    notes = ["shard-00001.tar is damaged or gone; it is made again"] if told else []
    assert [note.removeprefix(f"{tmp_path}/") for note in recorder.notes] == notes
    assert missing_shards(store, recipe) == [1]
    fill([1])
    again = finish_shards(store, recipe)
    verify(again)
    assert (again.digest, list(counted(store, recipe))) == (digest, sums)


def test_a_shard_that_was_damaged_behind_a_url_is_made_again_by_the_next_run(tmp_path):
    recipe, store = Recipe(samples=600, per_shard=300, facts=FACTS), Store("memory://set")
    for number in missing_shards(store, recipe):
        write_shard(store, recipe, number, make)
    finish_shards(store, recipe)
    content = bytearray(store.read("shard-00001.tar"))
    content[2000] ^= 1
    store.put("shard-00001.tar", bytes(content))
    with pytest.raises(UserError, match=r"shard-00001\.tar was altered"):
        fetch_shards(store, tmp_path)
    assert missing_shards(store, recipe) == [1]


def test_a_full_disk_is_named_and_what_is_finished_kept(tmp_path, room):
    def filling(start, stop):
        room(10**6 if start < 600 else 10_000)
        return make(start, stop)

    with pytest.raises(UserError) as error:
        write(tmp_path / "full", make=filling)
    room(10**6)
    shard = len(contents(tmp_path / "full")["shard-00000.tar"])
    assert f"no room in {tmp_path / 'full'} (File too large)" in str(error.value)
    assert f"for shard-00002.tar of {shard} bytes; 2 such files are missing" in str(error.value)
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


def test_weights_below_zero_and_of_other_shapes_are_refused(tmp_path):
    def weighted(weight):
        return lambda start, stop: make(start, stop) | {"weight": weight[start:stop]}

    shards = write(
        tmp_path / "good", 4, 2, weighted(torch.tensor([0, 0.5, 1, 7])), dtypes={"data": "float16"}
    )
    assert shards.load()["weight"].tolist() == [0, 0.5, 1, 7]
    with pytest.raises(UserError, match=r"'weight' of sample 3 is -1.0, .* numbers from 0"):
        write(tmp_path / "bad", 4, 2, weighted(torch.tensor([0, 0.5, 1, -1])))
    with pytest.raises(UserError, match=r"'weight' of sample 1 isn't finite"):
        write(tmp_path / "infinite", 4, 2, weighted(torch.tensor([0, torch.inf, 1, 1])))
    with pytest.raises(UserError, match=r"'weight' is one number a sample, got shape \[3\]"):
        write(tmp_path / "bad", 4, 2, weighted(torch.ones(4, 3)))


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
