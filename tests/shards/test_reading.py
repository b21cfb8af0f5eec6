import threading

import fsspec
import pytest
import torch
import webdataset
from making import FACTS, make, verify, write

from fewstep import randomness
from fewstep.errors import UserError
from fewstep.shards import Batches, Shards
from fewstep.shards.store import Store


def test_samples_are_read_as_they_were_made(tmp_path):
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
    batch, _ = Batches(shards, seed=0, size=4)[0]
    assert batch["data"].dtype == torch.float32


def test_reads_through_fsspec(tmp_path):
    shards = write(tmp_path)
    files = fsspec.filesystem("memory")
    files.put(str(tmp_path), "/shards-test", recursive=True)
    remote = Shards("memory://shards-test")
    assert remote.digest == shards.digest
    assert torch.equal(remote.load()["data"], shards.load()["data"])
    files.rm("/shards-test/shard-00003.tar")
    with pytest.raises(UserError, match=r"shard-00003\.tar is missing"):
        verify(remote)
    files.rm("/shards-test", recursive=True)


def test_several_shards_of_a_url_are_fetched_at_once(monkeypatch):
    shards = write("memory://at-once")
    whole, read, together = shards.load(), Store.read, threading.Barrier(4, timeout=30)

    def waiting(self, name):
        together.wait()
        return read(self, name)

    monkeypatch.setattr(Store, "read", waiting)
    again = shards.load()
    assert all(torch.equal(again[name], whole[name]) for name in whole)


def test_unreadable_urls_are_refused():
    with pytest.raises(UserError, match="nonsense"):
        Shards("nonsense://bucket/shards")
