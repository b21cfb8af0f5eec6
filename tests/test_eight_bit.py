"""Moments of 8 bits are an option that needs torchao, which nothing else does."""

import os
import subprocess
import sys

import pytest
from missing import make_missing
from recorded import run, student
from test_extras import EXTRAS
from test_layers import ROOT

from fewstep.errors import UserError
from fewstep.settings import TrainSettings

SETTINGS = TrainSettings(steps=2, batch=8, moments="8bit")


def test_with_torchao_the_tests_of_eight_bit_moments_pass(tmp_path):
    """It is installed for this test alone: wherever it is, peft and diffusers import it, which takes long."""
    install = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--target",
        tmp_path / "libraries",
    ]
    if subprocess.run([*install, *EXTRAS["eight-bit"]]).returncode:
        pytest.skip(f"pip can't fetch {EXTRAS['eight-bit']}; where it can, this test runs")
    path = os.pathsep.join(map(str, (tmp_path / "libraries", ROOT)))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/eight_bit.py"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout


def test_without_torchao_the_extra_is_named(tmp_path, monkeypatch):
    make_missing(monkeypatch, "torchao.optim.adam", "fewstep.training.eight_bit")
    with pytest.raises(UserError, match=r"moments: 8bit needs torchao: pip install 'fewstep\[eight-bit\]'"):
        run(tmp_path, settings=SETTINGS)


def test_eight_bit_moments_are_not_sharded(tmp_path, monkeypatch):
    monkeypatch.setenv("FEWSTEP_SHARD", "on")
    monkeypatch.setattr("fewstep.distributed.ranks", lambda: 2)
    with pytest.raises(UserError, match="FEWSTEP_SHARD shares out moments of float32 alone; set it to off"):
        run(tmp_path, model=student(), settings=SETTINGS)
