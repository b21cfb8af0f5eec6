"""What `make` does before all else: an environment of a Python that is new enough, whole or made again."""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]

PYTHON = f"""#!{sys.executable}
# A Python of another version; of `-m venv` and of pip it only notes that they were asked for.
import os, pathlib, sys
sys.version_info, sys.version = (VERSION), ".".join(map(str, (VERSION))) + " (main)"
if sys.argv[1] == "-c":
    exec(sys.argv[2])
else:
    with open("asked", "a") as asked:
        asked.write(" ".join(sys.argv[1:]) + "\\n")
    pip = pathlib.Path(".venv/bin/pip")
    pip.parent.mkdir(parents=True, exist_ok=True)
    install = 'if [ "$1" = install ]; then echo pip install >>asked; test ! -e offline; fi'
    pip.write_text("#!/bin/sh\\n" + install)
    pip.chmod(0o755)
    python = pip.with_name("python")
    python.write_text("#!/bin/sh\\ncase $2 in flows.*) echo tables;; *) echo compile;; esac >>asked")
    python.chmod(0o755)
"""


@pytest.fixture
def folder(tmp_path):
    """A folder with this project's Makefile, and a Python that is new enough."""
    shutil.copy(PROJECT / "Makefile", tmp_path)
    for name in ("requirements.lock", "pyproject.toml"):
        (tmp_path / name).touch()
    write_python(tmp_path, (3, 11, 0))
    return tmp_path


def write_python(folder, version):
    file = folder / "python-of-the-user"
    file.write_text(PYTHON.replace("VERSION", repr(version)))
    file.chmod(0o755)


def made(folder):
    """Ask for the environment; return what make said, and what it asked of Python and pip meanwhile."""
    (folder / "asked").write_text("")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    command = ["make", "--silent", ".venv/.locked", "PYTHON=./python-of-the-user"]
    run = subprocess.run(command, cwd=folder, env=environment, text=True, capture_output=True)
    return run, (folder / "asked").read_text().splitlines()


ANEW = ["-m venv --clear .venv", "pip install", "compile", "pip install", "tables"]
# The lock, then the project itself and the tables of its servers.


def test_an_old_python_is_answered_with_its_version_and_how_to_name_another(folder):
    write_python(folder, (3, 10, 13))
    run, asked = made(folder)
    assert run.returncode
    said, *rest = run.stderr.splitlines()
    assert said == (
        "fewstep needs Python 3.11 or newer, and ./python-of-the-user is Python 3.10.13. "
        "Name another one: PYTHON=python3.12 make run"
    )
    assert [line.partition(" ")[0] for line in rest] == ["make:"]
    assert asked == []
    needed = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["requires-python"]
    assert needed == ">=3.11"


def test_a_whole_environment_is_kept_and_follows_the_lock(folder):
    assert made(folder)[1] == ANEW
    assert made(folder)[1] == []
    os.utime(folder / ".venv/.packages", (1, 1))
    write_python(folder, (3, 10, 13))  # no matter: the environment has its own
    assert made(folder)[1] == ANEW[1:]


@pytest.mark.parametrize("wrong", ["gone", "of an interpreter that is gone"])
def test_an_environment_that_does_not_run_is_made_anew(folder, wrong):
    made(folder)
    pip = folder / ".venv/bin/pip"
    if wrong == "gone":
        pip.unlink()
    else:
        pip.write_text("#!/gone/python\n")
    assert made(folder)[1] == ANEW
    assert made(folder)[1] == []


def test_a_half_installed_environment_is_made_anew(folder):
    (folder / "offline").touch()
    assert made(folder)[0].returncode
    assert made(folder)[1] == ANEW[:2]
    (folder / "offline").unlink()
    run, asked = made(folder)
    assert (run.returncode, asked) == (0, ANEW)
    (folder / "offline").touch()  # an upgrade, too
    os.utime(folder / ".venv/.packages", (1, 1))
    assert made(folder)[1] == ["pip install"]
    (folder / "offline").unlink()
    assert made(folder)[1] == ANEW
