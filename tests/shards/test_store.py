"""Stores: files that appear whole in a folder and behind URLs, and what storages refuse."""

from multiprocessing import get_context

import fsspec
import pytest
import s3
import torch

from fewstep.errors import UserError
from fewstep.shards import (
    Recipe,
    Shards,
    Store,
    clear_leftovers,
    counted,
    fetch_shards,
    finish_shards,
    missing_shards,
    write_shard,
)
from fewstep.shards.store import NoRoomError


@pytest.fixture(params=["folder", "memory", "s3"])
def store(request, tmp_path):
    if request.param == "s3":
        return Store(request.getfixturevalue("bucket") + "/some/place")
    url = tmp_path / "some place [1]" if request.param == "folder" else f"memory://{tmp_path.name}/place"
    return Store(url)


def test_files_are_put_listed_read_and_removed(store):
    assert store.sizes() == {}
    store.put("a.tar", b"first")
    store.put(".b.json", b"second one")
    store.below("deeper").put("c", b"elsewhere")
    assert store.sizes() == {"a.tar": 5, ".b.json": 10}
    assert store.read("a.tar") == b"first"
    store.put("a.tar", b"again")
    assert store.read_those_there(["a.tar", "none", ".b.json"]) == {
        "a.tar": b"again",
        ".b.json": b"second one",
    }
    store.remove(["a.tar", "none"])
    assert store.sizes() == {".b.json": 10}
    with pytest.raises(FileNotFoundError):
        store.read("a.tar")
    assert store.below("deeper").read("c") == b"elsewhere"


def test_files_of_another_process_are_found(bucket, begun):
    store = Store(bucket)
    store.put("a", b"1")
    assert store.sizes() == {"a": 1}
    other = get_context("spawn").Process(target=Store(bucket).put, args=("b", b"2"))
    other.start()
    other.join()
    assert other.exitcode == 0
    assert store.read_those_there(["a", "b"]) == {"a": b"1", "b": b"2"}


def test_a_file_that_does_not_fit_leaves_what_was_there(tmp_path, room):
    store = Store(tmp_path)
    store.put("a", b"old")
    room(1000)
    with pytest.raises(NoRoomError, match=f"no room in {tmp_path}"):
        store.put("a", bytes(5000))
    assert store.read("a") == b"old"
    assert store.sizes() == {"a": 3}


def test_a_bucket_that_does_not_exist_is_named(bucket):
    store = Store("s3://nobody-made-this-bucket/place")
    for act in (store.sizes, lambda: store.put("a", b""), lambda: store.read("a")):
        with pytest.raises(UserError, match=r"s3://nobody-made-this-bucket/place: its bucket does not exist"):
            act()


def test_missing_credentials_are_named_and_given_ones_are_not(bucket, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    with pytest.raises(UserError, match=r"no access to s3://.*AWS_ACCESS_KEY_ID") as error:
        Store(bucket).put("a", b"")
    assert s3.SECRET not in str(error.value)


@pytest.mark.parametrize(
    ("refusal", "message"),
    [
        ((403, "InvalidAccessKeyId"), "no access to s3://"),
        ((403, "AccessDenied"), "no access to s3://"),
        ((507, "XMinioStorageFull"), "no room in s3://"),
    ],
)
def test_a_refusal_of_a_server_is_explained(bucket, s3_address, monkeypatch, refusal, message):
    with s3.faulty_proxy(s3_address, s3.Faults(refusal=refusal)) as proxy:
        s3.use(monkeypatch, proxy)
        with pytest.raises(UserError, match=message) as error:
            Store(bucket).put("a", b"content")
    assert s3.SECRET not in str(error.value)


def recipe(**changes):
    facts = {"about": "test"}
    return Recipe(**{"samples": 1000, "per_shard": 200, "facts": facts} | changes)


def make(start, stop):
    return {"data": torch.arange(start, stop).float()[:, None].expand(-1, 30)}


def test_counts_are_kept_beside_each_shard(tmp_path):
    store = Store(tmp_path)
    for number in range(recipe().shards):
        write_shard(store, recipe(), number, make, lambda fields: f"{fields['data'][0, 0]:.0f}")
    assert list(counted(store, recipe())) == ["0", "200", "400", "600", "800"]
    store.remove([".shard-00003.tar.counted"])
    assert missing_shards(store, recipe()) == [3]
    clear_leftovers(store, recipe(samples=400))
    assert {name for name in store.sizes() if "counted" in name} == {
        ".shard-00000.tar.counted",
        ".shard-00001.tar.counted",
    }


def test_a_proxy_that_loses_requests_loses_no_shard(bucket, s3_address, monkeypatch, tmp_path):
    faults = s3.Faults(errors=0.15, silences=0.15, bytes_per_second=1e6)
    with s3.faulty_proxy(s3_address, faults) as proxy:
        s3.use(monkeypatch, proxy)
        store = Store(bucket).below("set")
        for number in missing_shards(store, recipe()):
            write_shard(store, recipe(), number, make)
        finish_shards(store, recipe())
        fetch_shards(store, tmp_path / "fetched")
    assert faults.happened["error"] > 0
    assert faults.happened["silence"] > 0
    whole = Store(tmp_path / "whole")
    for number in range(recipe().shards):
        write_shard(whole, recipe(), number, make)
    finish_shards(whole, recipe())
    for file in (tmp_path / "whole").glob("[!.]*"):
        assert (tmp_path / "fetched" / file.name).read_bytes() == file.read_bytes()
    assert torch.equal(Shards(tmp_path / "fetched").load()["data"], make(0, 1000)["data"])


def test_an_unknown_file_system_is_named():
    with pytest.raises(UserError, match="nonsense"):
        Store("nonsense://bucket/place")
