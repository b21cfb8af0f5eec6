import io
import json
import os
import shutil
import tarfile
from hashlib import sha256

import pytest
import torch
from making import make, verify, write

from fewstep.errors import UserError
from fewstep.shards import Batches, Shards


def flip(path, byte=2000):
    damaged = bytearray(path.read_bytes())
    damaged[byte] ^= 1
    path.write_bytes(damaged)


def index_of(folder):
    return json.loads((folder / "shards.json").read_text())


def change_index(folder, change):
    index = index_of(folder)
    change(index)
    (folder / "shards.json").write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "is missing"),
        (lambda path: path.write_bytes(path.read_bytes()[:-512]), r"has \d+ bytes, not \d+: it was cut"),
        (lambda path: path.write_bytes(b""), "has 0 bytes, .* it was cut"),
        (lambda path: path.write_bytes(path.read_bytes() + bytes(512)), "bytes, .* it was altered"),
        (flip, "was altered: its sha256"),
        (lambda path: flip(path, 600), "was altered|made for other settings"),  # in a header
        (lambda path: path.rename(path.with_suffix(".bak")) and path.mkdir(), "Is a directory"),
    ],
)
def test_damage_is_refused_by_name(tmp_path, damage, message):
    write(tmp_path)
    damage(tmp_path / "shard-00002.tar")
    shards = Shards(tmp_path)
    for act in (
        lambda: verify(shards),
        shards.load,
        lambda: shards.read(2),
        lambda: shards.take(torch.tensor([700])),
        lambda: Batches(shards, seed=0, size=8)[0],
    ):
        with pytest.raises(UserError, match=rf"shard-00002\.tar.*({message})"):
            act()
    shards.read(1)


def test_a_damaged_file_is_made_writable_with_a_new_time_so_that_dvc_sees_it(tmp_path):
    shards, shard = write(tmp_path), tmp_path / "shard-00002.tar"
    flip(shard)
    shard.chmod(0o444)
    os.utime(shard, (1e9, 1e9))
    with pytest.raises(UserError, match="was altered"):
        verify(shards)
    assert shard.stat().st_mode & 0o200
    assert shard.stat().st_mtime > 1e9


def test_each_shard_is_compared_with_its_digest_once(tmp_path):
    shards = write(tmp_path)
    kept = shards.read(2)["label"]
    flip(tmp_path / "shard-00002.tar")
    assert not torch.equal(shards.read(2)["label"], kept)
    assert not torch.equal(Shards(tmp_path, check=False).read(2)["label"], kept)
    for compared in (shards, Shards(tmp_path, check=False)):
        with pytest.raises(UserError, match=r"shard-00002\.tar was altered: its sha256"):
            verify(compared)


@pytest.mark.parametrize("check", [True, False])
def test_a_shard_in_another_ones_place_is_told_apart(tmp_path, check):
    write(tmp_path)
    shutil.copy(tmp_path / "shard-00000.tar", tmp_path / "shard-00001.tar")
    os.replace(tmp_path / "shard-00002.tar", tmp_path / "shard-00003.tar")
    shards = Shards(tmp_path, check=check)
    for number, message in [(1, "0-300 of this set, not 300-600"), (3, "600-900 of this set, not 900-1000")]:
        with pytest.raises(
            UserError, match=rf"{number}\.tar holds samples {message}.*another.*make the set again"
        ):
            shards.read(number)


@pytest.mark.parametrize("check", [True, False])
def test_a_shard_of_another_set_is_told_apart(tmp_path, check):
    write(tmp_path / "a")
    write(tmp_path / "b", facts={"about": "test", "seed": 1})
    shutil.copy(tmp_path / "b" / "shard-00001.tar", tmp_path / "a" / "shard-00001.tar")
    with pytest.raises(
        UserError, match=r"a/shard-00001\.tar was made for other settings.*seed.*make the set again"
    ):
        Shards(tmp_path / "a", check=check).read(1)


def rewrite(folder, change):
    """Write the first shard with what `change` makes of each member, and tell the index of it."""
    path = folder / "shard-00000.tar"
    stream = io.BytesIO()
    with tarfile.open(path) as old, tarfile.open(fileobj=stream, mode="w") as new:
        for number, member in enumerate(old):
            content = old.extractfile(member).read()
            change(number, member)
            new.addfile(member, io.BytesIO(content))
    path.write_bytes(stream.getvalue())
    entry = {"bytes": len(stream.getvalue()), "sha256": sha256(stream.getvalue()).hexdigest()}
    change_index(folder, lambda index: index["shards"][0].update(entry))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("../00000256.safetensors", tarfile.REGTYPE),
        ("/tmp/00000256.safetensors", tarfile.REGTYPE),
        ("00000256.npy", tarfile.REGTYPE),
        ("00000256.safetensors", tarfile.SYMTYPE),
        ("00000256.safetensors", tarfile.LNKTYPE),
        ("00000256.safetensors", tarfile.CHRTYPE),
        ("00000256.safetensors", tarfile.DIRTYPE),
    ],
)
def test_members_that_are_no_records_are_refused_by_name(tmp_path, name, kind):
    write(tmp_path / "set")

    def change(number, member):
        if number == 1:
            member.name, member.type, member.linkname = name, kind, "shard-00001.tar"

    rewrite(tmp_path / "set", change)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(
        UserError, match=rf"shard-00000\.tar.*its member '{name}' is no record.*make the set again"
    ):
        Shards(tmp_path / "set").read(0)
    assert sorted(tmp_path.rglob("*")) == before


def test_records_that_moved_are_refused(tmp_path):
    write(tmp_path)

    def change(number, member):
        member.name = ["00000256.safetensors", "00000000.safetensors"][number]

    rewrite(tmp_path, change)
    with pytest.raises(UserError, match="the record of sample 256 is not of this shard, or has moved"):
        Shards(tmp_path).read(0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda index: index["shards"][0].update(name="../secret.tar"), "contradicts itself: .* numbered"),
        (lambda index: index.update(samples=7), "contradicts itself: .* 7 samples"),
        (
            lambda index: index["shards"][2].update(sha256=index["shards"][1]["sha256"]),
            r"contradicts itself: shard-00001\.tar and shard-00002\.tar are one shard; .*`fewstep recover`",
        ),
        (lambda index: index.update(shards=[], samples=0), "contradicts itself: .* no shards"),
        (
            lambda index: index.update(version=3),
            r"made by a newer fewstep \(schema 3, this one knows 2\): upgrade fewstep, or make the set",
        ),
        (
            lambda index: index.update(version=1),
            "made by an older fewstep .*: make the set again: .* --force",
        ),
        (lambda index: index["fields"]["data"].update(dtype="float15"), "no storage type 'float15'"),
        (lambda index: index.pop("facts"), "shards.json is damaged: it is no index of shards; make the set"),
        (lambda index: index["shards"][0].update(samples="300"), "damaged"),
    ],
)
def test_a_bad_index_is_refused(tmp_path, change, message):
    write(tmp_path)
    change_index(tmp_path, change)
    with pytest.raises(UserError, match=message):
        Shards(tmp_path)


def test_a_newer_index_need_not_be_understood(tmp_path):
    (tmp_path / "shards.json").write_text('{"version": 9, "parts": []}')
    with pytest.raises(UserError, match="made by a newer fewstep"):
        Shards(tmp_path)


@pytest.mark.parametrize(
    ("old", "new"), [('"float32"', '"float16"'), ("2\n   ]", "3\n   ]"), ('"label"', '"mark"')]
)
def test_an_index_that_tells_of_other_fields_is_refused(tmp_path, old, new):
    write(tmp_path)
    text = (tmp_path / "shards.json").read_text()
    assert old in text
    (tmp_path / "shards.json").write_text(text.replace(old, new))
    with pytest.raises(UserError, match=r"shard-00000\.tar doesn't hold what shards\.json says"):
        Shards(tmp_path).read(0)


def test_an_index_that_divides_samples_otherwise_is_refused(tmp_path):
    write(tmp_path)

    def change(index):
        index["shards"][0]["samples"] -= 1
        index["shards"][1]["samples"] += 1

    change_index(tmp_path, change)
    with pytest.raises(UserError, match="holds samples 0-300 of this set, not 0-299"):
        Shards(tmp_path).read(0)


def test_a_flipped_byte_of_a_header_is_refused_or_changes_nothing(tmp_path):
    shards = write(tmp_path, 10, 10)
    path = tmp_path / "shard-00000.tar"
    whole = path.read_bytes()
    header = int.from_bytes(whole[512:520], "little")
    for byte in range(0, 520 + header, 11):
        flip(path, byte)
        try:
            read = Shards(tmp_path, check=False).read(0)
        except UserError:
            continue
        finally:
            path.write_bytes(whole)
        assert all(torch.equal(read[name], tensor) for name, tensor in make(0, 10).items()), byte
    verify(shards)
