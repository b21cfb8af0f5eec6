"""Files appear whole, are on the disk before they have their name, and carry checksums."""

import errno
import json
import os
from pathlib import Path

import pytest

from fewstep import files
from fewstep.errors import UserError
from fewstep.sealed import seal, unseal


@pytest.fixture
def flushed(monkeypatch):
    """The inodes that were put on the disk, and the renames, in order."""
    happened = []
    replace = Path.replace
    monkeypatch.setattr(os, "fsync", lambda handle: happened.append(os.fstat(handle).st_ino))
    monkeypatch.setattr(Path, "replace", lambda *names: happened.append("renamed") or replace(*names))
    return happened


def test_a_file_is_on_the_disk_before_it_has_its_name_and_then_the_name_is(tmp_path, flushed):
    with files.written_whole(tmp_path / "file") as temporary:
        temporary.write_text("content")
    assert flushed == [(tmp_path / "file").stat().st_ino, "renamed", tmp_path.stat().st_ino]


def test_others_may_read_what_a_library_made_for_its_owner_alone(tmp_path):
    with files.written_whole(tmp_path / "file") as temporary:
        temporary.touch(mode=0o600)
    (tmp_path / "plain").touch()
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.fixture
def places(tmp_path, monkeypatch):
    """A folder and a file in the working directory."""
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    Path("file").touch()


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("folder", "folder is a folder; give the name of a file"),
        ("file/a.png", "file/a.png can't be written: Not a directory"),
        ("file/b/a.png", "file/b/a.png can't be written: Not a directory"),
        ("/proc/a.png", "/proc/a.png can't be written: No such file or directory"),
    ],
)
def test_a_file_that_can_not_be_written_is_refused_beforehand(places, name, told):
    with pytest.raises(UserError) as caught:
        files.must_be_writable(Path(name))
    assert str(caught.value) == told


def test_must_be_writable_leaves_no_file(places):
    before = sorted(Path().rglob("*"))
    for name in ("new", "folder/new", "new/folder/new", "file"):
        files.must_be_writable(Path(name))
    assert sorted(Path().rglob("*")) == before


def test_an_output_that_can_not_be_written_is_named_and_what_was_there_stays(tmp_path):
    (tmp_path / "out").write_text("before")
    with (
        pytest.raises(UserError, match=rf"{tmp_path}/out can't be written: No space left on device"),
        files.output_written_whole(tmp_path / "out"),
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("out", "before")]


@pytest.mark.parametrize("name", ["run", "run/.", ".", ".."])
def test_a_folder_that_exists_is_refused_and_nothing_beside_it_is_touched(tmp_path, monkeypatch, name):
    for each in ("run", "run.tmp"):
        (tmp_path / "at" / each).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "at")
    with pytest.raises(UserError, match="exists; give the name of a"), files.folder_written_whole(Path(name)):
        pass
    assert {file.name for file in tmp_path.rglob("*")} == {"at", "run", "run.tmp"}


def test_of_two_that_write_one_folder_the_first_that_ends_has_it(tmp_path):
    whole = tmp_path / "new/run"
    writers = [files.folder_written_whole(whole) for _ in range(2)]
    for writer, text in zip(writers, ("slow", "fast"), strict=True):
        (writer.__enter__() / "file").write_text(text)
    writers[1].__exit__(None, None, None)
    with pytest.raises(UserError, match=f"{whole} can't be written: Directory not empty"):
        writers[0].__exit__(None, None, None)
    assert [(file.name, file.read_text()) for file in whole.iterdir()] == [("file", "fast")]
    assert list(whole.parent.iterdir()) == [whole]
    (tmp_path / "plain").mkdir()
    assert whole.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_folder_is_put_on_the_disk_with_all_that_is_below_it(tmp_path, flushed):
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/file").touch()
    folders = [path.stat().st_ino for path in (tmp_path, tmp_path / "a", tmp_path / "a/b")]
    files.flush_below(tmp_path, names_only=True)
    assert sorted(flushed) == sorted(folders)
    flushed.clear()
    files.flush_below(tmp_path)
    assert sorted(flushed) == sorted([*folders, (tmp_path / "a/b/file").stat().st_ino])


def test_a_file_set_aside_replaces_an_earlier_one_and_may_be_missing(tmp_path):
    (tmp_path / "state.damaged").mkdir()
    (tmp_path / "state").write_text("bad")
    assert files.set_aside(tmp_path / "state").read_text() == "bad"
    assert files.set_aside(tmp_path / "state").read_text() == "bad"  # another process was faster


CONTENT = {"text": "a", "numbers": [1.5, float("inf")], "steps": {10: (1, 2), 9: None}}


def test_sealed_content_is_read_as_it_was_written():
    sealed = json.loads(json.dumps(seal(CONTENT)))
    assert unseal(sealed) == json.loads(json.dumps(CONTENT))


def test_a_flipped_bit_is_found_by_the_seal():
    text = json.dumps(seal(CONTENT)).encode()
    for position, byte in enumerate(text):
        flipped = text[:position] + bytes([byte ^ 1]) + text[position + 1 :]
        with pytest.raises(ValueError, match=r"\w"):
            unseal(json.loads(flipped))


@pytest.mark.parametrize("other", [[], None, 3, {}, {"text": "a"}])
def test_content_without_a_seal_is_refused(other):
    with pytest.raises(ValueError, match="no checksum"):
        unseal(other)
