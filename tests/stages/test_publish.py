"""An output appears whole or not at all, and costs no second copy on disk."""

import os
import shutil
from pathlib import Path

import pytest

from stages.artifacts import manifests
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
    (scratch.out / "other.txt").write_text("as ever")
    names = ("stage", "key", "version", "seed", "config", "fingerprint", "inputs", "facts")
    manifests.write(scratch.manifest, dict.fromkeys(names) | {"files": manifests.describe(scratch.out)})
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
        assert sorted(os.listdir(out)) == ["manifest.json", "other.txt", "sub"]
        assert os.listdir(out.parent) == ["make"]


def test_the_names_of_a_result_are_on_the_disk_before_it_is_published(scratch, tmp_path, monkeypatch):
    happened = []
    rename = Path.rename
    monkeypatch.setattr(os, "fsync", lambda handle: happened.append(os.fstat(handle).st_ino))
    monkeypatch.setattr(Path, "rename", lambda *names: happened.append("renamed") or rename(*names))
    publish(scratch, tmp_path / "out")
    assert happened.count("renamed") == 1
    folders = {path.stat().st_ino for path in (tmp_path / "out", tmp_path / "out/sub")}
    assert folders <= set(happened[: happened.index("renamed")])


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


DAMAGES = {
    "longer": ("out/sub/file.txt", lambda file: file.write_text("longer than it was")),
    "flipped": ("out/sub/file.txt", lambda file: file.write_text("nev")),
    "gone": ("out/sub/file.txt", Path.unlink),
    "a folder": ("out/sub/file.txt", lambda file: [file.unlink(), file.mkdir()]),
    "cut manifest": (manifests.NAME, lambda file: file.write_text(file.read_text()[:40])),
    "empty manifest": (manifests.NAME, lambda file: file.write_text("")),
    "flipped manifest": (
        manifests.NAME,
        lambda f: f.write_text(f.read_text().replace('"seed": n', '"sead": n')),
    ),
    "manifest with another fact": (
        manifests.NAME,
        lambda file: file.write_text(file.read_text().replace('"facts": null', '"facts": 1234')),
    ),
    "manifest of another type": (manifests.NAME, lambda file: file.write_text("[]")),
    "manifest that is a folder": (manifests.NAME, lambda file: [file.unlink(), file.mkdir()]),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_files_of_finished_scratch_are_reported_and_removed_and_the_rest_kept(scratch, damage):
    said = []
    assert scratch.read_finished(said.append)
    assert said == []
    name, do = DAMAGES[damage]
    do(file := scratch.folder / name)
    assert not scratch.read_finished(said.append)
    assert len(said) == 1
    assert said[0].startswith(f"{file} ")
    assert said[0].endswith("; it is made again")
    assert not file.exists()
    assert not scratch.manifest.exists()
    assert (scratch.out / "other.txt").read_text() == "as ever"


@pytest.mark.parametrize(("shared", "kept"), [(True, False), (False, True)])
def test_what_helps_to_resume_goes_with_a_damaged_file_that_it_shares(scratch, shared, kept):
    scratch.work.mkdir()
    (scratch.work / "state").write_text("of the last step")
    file = scratch.out / "sub/file.txt"
    (os.link if shared else shutil.copy)(file, scratch.work / "file.txt")
    file.write_text("nev")
    assert not scratch.read_finished(print)
    assert (scratch.work / "state").exists() == kept
    assert (scratch.out / "other.txt").read_text() == "as ever"


def test_damage_that_size_and_time_do_not_tell_is_made_visible_to_dvc(scratch, tmp_path):
    """DVC trusts what is read-only or not younger than when it looked; its cache holds a link."""
    file, cached = scratch.out / "sub/file.txt", tmp_path / "cached"
    file.write_text("nev")
    os.link(file, cached)
    cached.chmod(0o444)
    os.utime(cached, (1e9, 1e9))
    assert not scratch.read_finished(print)
    assert cached.stat().st_mode & 0o200
    assert cached.stat().st_mtime > 1e9


def test_a_second_beginning_removes_what_an_earlier_one_finished_and_no_unfinished_one(scratch):
    scratch.work.mkdir()
    assert scratch.begin_again(None)
    assert not scratch.out.exists()
    assert not scratch.work.exists()
    scratch.work.mkdir()
    assert not scratch.begin_again(None)  # it was stopped; the next forced run goes on with it
    assert scratch.work.exists()
    manifests.write(scratch.manifest, {})
    assert scratch.begin_again(None)


def test_finished_scratch_is_reused_by_the_flow_run_that_forced_it_and_cleared_for_others(scratch):
    assert scratch.begin_again("one")
    assert not scratch.begin_again("two")  # which goes on with what the first did not finish
    manifests.write(scratch.manifest, {})
    assert not scratch.begin_again("two")
    assert scratch.manifest.exists()
    for other in ("one", None):
        assert scratch.begin_again(other)
        manifests.write(scratch.manifest, {})


@pytest.mark.parametrize("what", ["tmp", "old"])
@pytest.mark.parametrize("kind", [Path.touch, Path.mkdir])
def test_leftovers_of_a_killed_publication_are_removed_by_the_next(scratch, tmp_path, what, kind):
    kind(tmp_path / f"make.{what}")
    publish(scratch, tmp_path / "make")
    assert (tmp_path / "make/sub/file.txt").read_text() == "new"
    assert not (tmp_path / f"make.{what}").exists()


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


def test_a_full_disk_is_reported_with_the_folder_and_the_free_bytes(monkeypatch, capsys, tmp_path):
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
