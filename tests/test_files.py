"""Files of text that somebody else wrote: one message names the file and what is wrong with it."""

import os

import pytest

from fewstep import grid_files, registry, solvers
from fewstep.checkpoint import load_config
from fewstep.errors import UserError
from fewstep.files import read_text
from flows.workers import driver
from stages.settings.params import Params

LATIN1 = "# Einstellungen\n# für uns\nseed: 0\n".encode("latin1")
NAMELESS = os.fsdecode(b"caf\xe9")


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("params.yaml", Params.read),
        ("params.yaml", read_text),
        ("infra/pools.yaml", lambda file: driver.pools_of(file.parents[1])),
        ("grids.json", lambda file: grid_files.read(file, None)),
        ("config.json", lambda file: load_config(file.parent)),
    ],
)
def test_a_file_in_another_encoding_is_named(tmp_path, name, read):
    (file := tmp_path / name).parent.mkdir(exist_ok=True)
    file.write_bytes(LATIN1)
    with pytest.raises(UserError) as caught:
        read(file)
    assert str(file) in str(caught.value)
    assert "line 2 holds the byte 0xfc; save it in UTF-8" in str(caught.value)


def test_a_name_in_another_encoding_can_be_printed(tmp_path):
    (tmp_path / NAMELESS).mkdir()
    with pytest.raises(UserError) as caught:
        read_text(tmp_path / NAMELESS)
    assert str(caught.value).encode().endswith(rb"caf\xe9 can't be read: Is a directory")


@pytest.mark.parametrize("content", [b"x = '\xfc'\n", b"class Odd\n    pass\n", b"x = 1\0\n"])
def test_a_plug_in_that_is_no_python_is_named(tmp_path, monkeypatch, content):
    (tmp_path / "solvers").mkdir()
    (tmp_path / "solvers/odd.py").write_bytes(content)
    monkeypatch.setenv(registry.PLUGINS, str(tmp_path))
    monkeypatch.setattr(solvers, "__path__", [*solvers.__path__, str(tmp_path / "solvers")])
    with pytest.raises(UserError, match=rf"{tmp_path}/solvers/odd\.py is no Python"):
        registry.find("fewstep.solvers", "odd")


def test_a_plug_in_without_the_class_of_its_name_is_told(tmp_path, monkeypatch):
    (tmp_path / "solvers").mkdir()
    (tmp_path / "solvers/odd_one.py").write_text("class Other: ...")
    monkeypatch.setenv(registry.PLUGINS, str(tmp_path))
    monkeypatch.setattr(solvers, "__path__", [*solvers.__path__, str(tmp_path / "solvers")])
    with pytest.raises(
        UserError, match=r"odd_one\.py does not define OddOne, the class that its name stands for"
    ):
        registry.find("fewstep.solvers", "odd_one")


def test_a_plug_in_whose_name_no_setting_can_hold_is_named(tmp_path, monkeypatch):
    (tmp_path / "solvers").mkdir()
    (tmp_path / "solvers" / f"{NAMELESS}.py").touch()
    monkeypatch.setenv(registry.PLUGINS, str(tmp_path))
    with pytest.raises(UserError, match=r"the name of caf\\xe9\.py is not in UTF-8"):
        registry.available("fewstep.solvers")
