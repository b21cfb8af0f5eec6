"""A flipped bit in what lies on the disk three times, by one inode, is found, told and mended as is said."""

import os

import pytest
from fake_project import Project


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A project of which everything ran; copied with its links by every test."""
    project = Project(tmp_path_factory.mktemp("template") / "project").with_dvc()
    project.sh("dvc repro")
    return project


@pytest.fixture
def project(template, tmp_path):
    template.sh(f"cp -a . {tmp_path / 'project'}")
    project = Project.__new__(Project)
    project.folder, project.environment = tmp_path / "project", template.environment
    return project


def flip(file, byte, *, rot):
    """Flip a bit in place, through all links; `rot`: as a disk does it, without a change of times."""
    before = file.stat()
    file.chmod(0o644)
    with file.open("r+b") as stream:
        stream.seek(byte)
        old = stream.read(1)[0]
        stream.seek(byte)
        stream.write(bytes([old ^ 1]))
    file.chmod(before.st_mode)
    if rot:
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize(("name", "rot"), [("part-1.txt", True), ("manifest.json", False)])
def test_a_flipped_bit_is_found_by_who_reads_it_and_mended_by_the_remedy(project, template, name, rot):
    file = project / "artifacts/make" / name
    assert file.stat().st_nlink == 3
    flip(file, file.read_bytes().index(b'"facts": {') + 1 if name == "manifest.json" else 0, rot=rot)
    project.edit("params.yaml", "{word: hello}", "{word: hallo}")
    said = project.sh("dvc repro", ok=None)
    if "failed to reproduce" in said:  # else DVC saw the change and had it made again at once
        assert f"artifacts/make/{name} is " in said
        assert "run: fewstep recover && dvc repro" in said
        said = project.sh("dvc repro")  # what recover does is in tests/flows/test_recover.py
    assert f"out/{name}" in said or "manifest.json is damaged" in said
    assert "; it is made again" in said
    assert project.files("artifacts/make") == template.files("artifacts/make")
    assert project.files(".dvc/cache/files").items() >= template.files(".dvc/cache/files").items()
    assert (project / "artifacts/use/one/joined.txt").read_text() == "hallo 0 0\nhallo 0 1\nhallo 0 2\n"
    assert "up to date" in project.sh("dvc status")


def test_a_cut_file_is_mended_by_dvc_alone(project, template):
    """As after a loss of power: DVC's cache has lost the end, too, and DVC trusts it."""
    file = project / "artifacts/make/part-1.txt"
    file.chmod(0o644)
    os.truncate(file, 1)
    file.chmod(0o444)
    project.edit("params.yaml", "{word: hello}", "{word: hallo}")
    said = project.sh("dvc repro", ok=False)  # DVC restores it from its cache
    assert (
        "artifacts/make/part-1.txt has 1 bytes instead of 3; run: fewstep recover && dvc repro make" in said
    )
    project.sh("dvc repro")
    assert project.files("artifacts/make") == template.files("artifacts/make")


def test_a_forced_run_is_one_and_what_a_killed_one_left_is_gone_on_with(project, template):
    (log,) = project.folder.glob(".fewstep/scratch/make.*/work/attempts.log")
    log.write_text("an earlier run\n")
    said = project.sh("dvc repro -fs make")
    assert "made before" not in said
    assert log.read_text().splitlines() == ["0 made", "1 made", "2 made"]
    assert project.files("artifacts/make") == template.files("artifacts/make")
    next(project.folder.glob(".fewstep/scratch/make.*/manifest.json")).unlink()  # as if killed at its end
    project.sh("dvc repro -fs make")
    assert log.read_text().splitlines()[3:] == ["0 found", "1 found", "2 found"]
    assert "didn't change" in project.sh("dvc repro make")
