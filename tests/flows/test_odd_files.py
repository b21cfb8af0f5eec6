"""Files that DVC cannot keep: one message names the file."""

import os
from pathlib import Path

import pytest

from fewstep.errors import UserError
from flows.dvc import repo
from flows.workspaces.variant import mirror, sources, tracked


def latin1(folder):
    os.makedirs(os.fsencode(folder) + b"/caf\xe9")
    with open(os.fsencode(folder) + b"/caf\xe9/1.png", "wb") as file:
        file.write(b"x")


def test_a_name_that_is_not_in_utf8_is_named(toy):
    latin1(toy.root / "data")
    with pytest.raises(UserError, match=r"data/caf\\xe9/1\.png, whose name is not in UTF-8; rename it"):
        repo.read(toy.root)


def test_a_link_to_nothing_is_named(toy):
    (toy.root / "data" / "1.png").symlink_to("gone.png")
    with pytest.raises(UserError, match=r"data/1\.png is a link to nothing"):
        repo.read(toy.root)


@pytest.mark.parametrize("name", ["params.yaml", "dvc.yaml", "data/images.dvc"])
def test_a_file_of_dvc_in_another_encoding_is_named(toy, name):
    with (toy.root / name).open("ab") as file:
        file.write("\n# für uns\n".encode("latin1"))
    with pytest.raises(UserError, match=rf"{name}.*utf-?8"):
        repo.read(toy.root)


def test_a_workspace_gets_names_that_are_not_in_utf8(toy, tmp_path):
    latin1(toy.root / "notes")
    files = tracked(toy.root)
    assert any("caf" in str(name) for name in files)
    mirror(toy.root, tmp_path, files | sources(toy.root, tmp_path))
    assert os.listdir(os.fsencode(tmp_path / "notes")) == [b"caf\xe9"]


def test_a_workspace_loses_data_that_git_ignores_and_the_checkout_has_no_more(toy, tmp_path):
    def mirrored():
        mirror(toy.root, tmp_path, tracked(toy.root) | sources(toy.root, tmp_path))
        return {file.relative_to(tmp_path / "data") for file in (tmp_path / "data").rglob("*")}

    data = toy.root / "data"
    (data / ".gitignore").write_text("/images\n/labels\n")
    for name in ("images/1.png", "images/2.png", "labels"):
        (data / name).parent.mkdir(exist_ok=True)
        (data / name).write_text("x")
    assert {Path("images/1.png"), Path("images/2.png"), Path("labels")} <= mirrored()
    (data / "images/1.png").unlink()
    found = mirrored()
    assert Path("images/1.png") not in found
    assert {Path("images/2.png"), Path("labels")} <= found
    (data / "images/2.png").unlink()
    (data / "images").rmdir()
    (data / "images").write_text("a file now")
    (data / "labels").unlink()
    (data / "labels").mkdir()
    (data / "labels/1.txt").write_text("a folder now")
    mirrored()
    assert (tmp_path / "data/images").read_text() == "a file now"
    assert (tmp_path / "data/labels/1.txt").read_text() == "a folder now"
