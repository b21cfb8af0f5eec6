"""An output appears whole or not at all, and costs no second copy on disk."""

import json
import os
import shutil

import pytest

from stages.artifacts import scratch as scratch_module
from stages.artifacts.scratch import Scratch, publish


@pytest.fixture
def scratch(tmp_path):
    return finished(tmp_path, "make.1", "new")


def finished(folder, name, text, age=0.0):
    """Return a finished scratch that was finished `age` seconds ago."""
    scratch = Scratch(folder / name)
    (scratch.out / "sub").mkdir(parents=True)
    (scratch.out / "sub/file.txt").write_text(text)
    files = {"sub/file.txt": {"bytes": len(text), "sha256": ""}}
    names = ("stage", "key", "version", "seed", "config", "fingerprint", "inputs", "facts")
    scratch.manifest.write_text(json.dumps(dict.fromkeys(names) | {"files": files}))
    os.utime(scratch.manifest, (1e9 - age, 1e9 - age))
    scratch.lock_file.parent.mkdir(exist_ok=True)
    return scratch


def test_published_files_are_links_and_replace_what_was_there(scratch, tmp_path):
    out = tmp_path / "artifacts/make"
    out.mkdir(parents=True)
    (out / "stale.txt").touch()
    (scratch.out / "sub/file.txt").chmod(0o444)  # as DVC leaves it when it has taken it over
    for _ in range(2):
        publish(scratch, out)
        assert (out / "sub/file.txt").samefile(scratch.out / "sub/file.txt")
        assert sorted(os.listdir(out)) == ["manifest.json", "sub"]
        assert os.listdir(out.parent) == ["make"]


def test_files_are_copied_where_links_are_impossible(scratch, tmp_path, monkeypatch):
    def refuse(source, target):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    publish(scratch, tmp_path / "out")
    assert (tmp_path / "out/sub/file.txt").read_text() == "new"


def test_a_publication_that_breaks_off_leaves_nothing(scratch, tmp_path, monkeypatch):
    real = scratch_module.link

    def break_at_manifest(source, target):
        if target.name == "manifest.json":
            raise OSError(28, "No space left on device")
        real(source, target)

    monkeypatch.setattr(scratch_module, "link", break_at_manifest)
    with pytest.raises(OSError, match="No space"):
        publish(scratch, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(scratch_module, "link", real)
    publish(scratch, tmp_path / "out")
    assert not (tmp_path / "out.tmp").exists()


def test_damaged_scratch_is_made_anew(scratch):
    assert scratch.read_finished()
    (scratch.out / "sub/file.txt").write_text("longer than it was")
    assert not scratch.read_finished()
    assert not scratch.out.exists()


def test_pruning_keeps_the_newest_the_unfinished_and_the_locked(tmp_path):
    oldest, older, newest = (finished(tmp_path, f"make.{age}", "x", age) for age in (30, 20, 10))
    (tmp_path / "make.unfinished").mkdir()
    other = finished(tmp_path, "make-up.1", "x", 99)
    now = Scratch(tmp_path / "make.now")
    with oldest.lock(print):
        now.prune()
    assert oldest.folder.exists()
    assert not older.folder.exists()
    now.prune()
    assert not oldest.folder.exists()
    assert all(s.folder.exists() for s in (newest, other, Scratch(tmp_path / "make.unfinished")))


def test_scratch_lies_in_the_checkout_or_where_one_says(tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    assert (
        Scratch.of("distill@boss-4", "f" * 64).folder
        == tmp_path / f".fewstep/scratch/distill@boss-4.{'f' * 16}"
    )
    monkeypatch.setenv("FEWSTEP_SCRATCH", str(tmp_path / "big"))
    assert Scratch.of("make", "f" * 64).folder == tmp_path / f"big/make.{'f' * 16}"
    assert scratch_module.state() == tmp_path / ".fewstep"


def test_a_full_disk_is_told_with_the_folder_and_the_room(monkeypatch, capsys, tmp_path):
    from stages.run import runner

    def fail(stage, arguments):
        raise ValueError("while saving") from OSError(28, "No space left on device", str(tmp_path / "shard"))

    monkeypatch.setattr(runner, "run", fail)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 1234}))
    monkeypatch.setattr("sys.argv", ["stages.couple", "round1"])
    with pytest.raises(SystemExit) as caught:
        runner.main(tmp_path / "couple.py")
    assert f"the disk of {tmp_path} is full (1,234 bytes free)" in caught.value.code
    assert "dvc repro couple@round1" in caught.value.code
