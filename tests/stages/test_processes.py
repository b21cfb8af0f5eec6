"""How many processes share a training, and what is refused; that they train as one is in test_training.py."""

import os
import signal
import subprocess
import sys

import pytest
import torch
from fake_project import CHECKOUT, Project

from fewstep.errors import UserError
from stages.workers.distributed import beside, processes


@pytest.mark.parametrize("value", ["0", "-1", "two", ""])
def test_a_number_of_processes_that_is_none_is_refused(monkeypatch, value):
    monkeypatch.setenv("FEWSTEP_PROCESSES", value)
    with pytest.raises(
        UserError, match=f"FEWSTEP_PROCESSES must be a number of processes from 1, got '{value}"
    ):
        processes()


@pytest.mark.parametrize(
    ("device", "gpus", "fits"),
    [("cuda", 2, True), ("cuda", 1, False), ("cuda:1", 2, False), ("cpu", 0, True)],
)
def test_each_process_needs_a_gpu_of_its_own_or_none(monkeypatch, device, gpus, fits):
    monkeypatch.setattr("stages.process.device.device", lambda: device)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setenv("FEWSTEP_PROCESSES", "1")
    assert processes() == 1
    monkeypatch.setenv("FEWSTEP_PROCESSES", "2")
    if fits:
        assert processes() == 2
    else:
        with pytest.raises(
            UserError, match=f"2 needs a GPU for each process, of {gpus} here.* it is {device}"
        ):
            processes()


def test_what_the_environment_held_is_there_again_afterwards(monkeypatch):
    monkeypatch.setenv("FEWSTEP_DEVICE", "cpu")
    monkeypatch.setenv("MASTER_PORT", "1234")
    before = dict(os.environ)
    with beside(2, print):
        assert torch.distributed.get_world_size() == 2
        assert os.environ["RANK"] == "0"
    assert dict(os.environ) == before


def test_a_process_that_dies_takes_the_stage_with_it():
    """A group that lacks one waits for it, on some devices for ever."""
    code = "import os, time; from stages.workers.distributed import beside\nif __name__ == '__main__':\n"
    code += "    with beside(2, os.abort): time.sleep(60)"
    environment = os.environ | {"FEWSTEP_DEVICE": "cpu", "PYTHONPATH": str(CHECKOUT)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=50
    )
    assert done.returncode == -signal.SIGKILL
    assert "a process of this training ended with -6" in done.stdout


def test_a_stage_under_torchrun_says_what_to_do_instead_of_waiting_for_itself(tmp_path):
    project = Project(tmp_path / "project")
    said = project.sh("WORLD_SIZE=2 RANK=1 python -m stages.make", ok=False)
    assert said.startswith("make: a stage starts its other processes itself: instead of torchrun (WORLD_SIZE")
    assert said.endswith("set FEWSTEP_PROCESSES=2\n")
    assert not (project.folder / ".fewstep").exists()
