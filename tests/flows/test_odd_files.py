"""Files that DVC cannot keep: one message names the file."""

import os

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
    mirror(toy.root, tmp_path, files | sources(toy.root))
    assert os.listdir(os.fsencode(tmp_path / "notes")) == [b"caf\xe9"]
