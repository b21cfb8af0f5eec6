"""How many processes share a training, and what is refused; that they train as one is in test_training.py."""

import os
import re
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import group_work
import preloaded
import pytest
import torch
from fake_project import Project
from processes import alive, wait_for
from workspace import CHECKOUT

from fewstep.errors import UserError
from fewstep.progress import SILENT, Silent
from stages.artifacts.full_disk import full_folder
from stages.workers import distributed
from stages.workers.distributed import Group, launch, processes


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
    monkeypatch.setattr(distributed, "device", lambda: device)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setenv("FEWSTEP_PROCESSES", "1")
    assert processes() == 1
    monkeypatch.setenv("FEWSTEP_PROCESSES", "2")
    if fits:
        assert processes() == 2
    else:
        told = (
            f"2 is more than the GPUs here, {gpus}"
            if device == "cuda"
            else f"FEWSTEP_DEVICE is {device}; set"
        )
        with pytest.raises(UserError, match=told):
            processes()


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"FEWSTEP_NODES": "0"}, "FEWSTEP_NODES must be a number of machines from 1, got '0'"),
        ({"FEWSTEP_NODE_RANK": "1"}, r"FEWSTEP_NODE_RANK must be from 0 to 0 \(FEWSTEP_NODES - 1\), got '1'"),
        ({"FEWSTEP_NODES": "2", "FEWSTEP_NODE_RANK": "2"}, r"FEWSTEP_NODE_RANK must be from 0 to 1"),
        (
            {"FEWSTEP_NODES": "2"},
            "FEWSTEP_RENDEZVOUS must be host:port, the host of the first machine, got ''",
        ),
        ({"FEWSTEP_NODES": "2", "FEWSTEP_RENDEZVOUS": "host"}, "FEWSTEP_RENDEZVOUS must be host:port"),
    ],
)
def test_impossible_groups_are_refused_with_the_variable(monkeypatch, variables, message):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=message):
        Group.from_environment()


def test_several_machines_are_read_from_the_environment(monkeypatch):
    assert Group.from_environment() == Group(1)
    assert Group.from_environment().alone
    values = {"PROCESSES": "3", "NODES": "2", "NODE_RANK": "1", "RENDEZVOUS": "first:29500"}
    for name, value in values.items():
        monkeypatch.setenv(f"FEWSTEP_{name}", value)
    assert Group.from_environment() == Group(3, machines=2, machine=1, rendezvous="first:29500")


class Heard(Silent):
    """What a progress was told."""

    def __init__(self):
        self.calls = []

    def start(self, label, total, *, done=0, unit="step"):
        self.calls.append(("start", label, total, done, unit))

    def advance(self, units=1, **values):
        self.calls.append(("advance", units, values))

    def measure(self, step, **values):
        self.calls.append(("measure", step, values))

    def note(self, text):
        self.calls.append(("note", text))


@pytest.mark.usefixtures("forked_processes")
def test_the_first_of_two_processes_reports_and_its_result_comes_back(monkeypatch):
    monkeypatch.setenv("MASTER_PORT", "1234")
    before, progress = dict(os.environ), Heard()
    assert launch(Group(2), group_work.report, name="a", progress=progress) == (0, 2)
    assert progress.calls == [
        ("start", "train", 4, 1, "step"),
        ("advance", 1, {"loss": 0.5}),
        ("measure", 1, {"loss": 0.5}),
        ("note", "done"),
    ]
    assert dict(os.environ) == before
    assert not torch.distributed.is_initialized()


@pytest.mark.usefixtures("forked_processes")
def test_a_mistake_that_the_first_process_finds_is_that_of_the_stage(capfd):
    with pytest.raises(UserError, match="the batch is odd"):
        launch(Group(2), group_work.refuse, name="a", progress=SILENT)
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.usefixtures("forked_processes")
def test_a_mistake_that_another_process_alone_finds_is_that_of_the_stage_too(capfd):
    with pytest.raises(UserError, match="there is no such model"):
        launch(Group(2), group_work.second_refuses, name="a", progress=SILENT)
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.usefixtures("forked_processes")
def test_a_full_disk_is_reported_as_alone(capfd):
    with pytest.raises(OSError, match="No space left on device") as raised:
        launch(Group(2), group_work.fill, name="a", progress=SILENT)
    assert full_folder(raised.value) is not None
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.usefixtures("forked_processes")
def test_a_process_without_memory_says_so_for_all_and_ends_the_others():
    with pytest.raises(UserError, match=r"out of memory .* FEWSTEP_MICRO_BATCH=32"):
        launch(Group(2), group_work.second_has_no_memory, name="a", progress=SILENT)


@pytest.mark.usefixtures("forked_processes")
def test_a_progress_that_fails_stops_no_process_but_fails_the_training():
    class Full(Silent):
        def start(self, label, total, *, done=0, unit="step"):
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        launch(Group(2), group_work.report, name="a", progress=Full())


@pytest.mark.usefixtures("forked_processes")
def test_a_process_that_dies_ends_the_others_and_the_training():
    """A group that lacks one waits for it, on some devices for ever."""
    heard = Heard()
    with pytest.raises(
        RuntimeError, match=f"process 1 of this training ended with exit code {-signal.SIGABRT}"
    ):
        launch(Group(2), group_work.second_dies, name="a", progress=heard)
    ((_, first),) = heard.calls
    assert not alive(int(first))


@pytest.mark.usefixtures("forked_processes")
def test_a_process_that_is_killed_is_named_with_the_remedy():
    with pytest.raises(
        UserError, match=r"process 1 of this training was killed by signal 9; memory may .* and it resumes"
    ):
        launch(Group(2), group_work.second_is_killed, name="a", progress=SILENT)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells of a parent's death")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_processes_die_with_a_stage_that_is_killed(tmp_path, how):
    stage = begin(tmp_path, "group_work.write_and_wait")
    files = [tmp_path / str(rank) for rank in range(2)]
    wait_for(lambda: all(map(Path.exists, files)) or stage.poll() is not None)
    stage.send_signal(how)
    said, _ = stage.communicate()
    assert all(map(Path.exists, files)), said
    wait_for(lambda: not any(alive(int(file.read_text())) for file in files), seconds=30)
    assert ("KeyboardInterrupt" in said) == (how == signal.SIGINT)


def begin(folder, work, **variables):
    """Begin a program that shares `work`, as a stage does, among two processes if nothing else is said."""
    code = (
        "import sys; import group_work; from fewstep.progress import SILENT\n"
        "from stages.workers.distributed import Group, launch\n"
        "if __name__ == '__main__':\n"
        f"    print(launch(Group.from_environment(), {work}, name='a', progress=SILENT))"
    )
    paths = os.pathsep.join(map(str, (CHECKOUT, Path(__file__).parent)))
    return subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": paths, "FEWSTEP_PROCESSES": "2"} | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


TRAIN = '''
"""Train: what a stage with a training does."""
from pathlib import Path
import group_work
from stages.settings.fields import Settings
from stages.run.job import Job
from stages.run.runner import main
from stages.workers.distributed import Group, launch

VERSION = 1


class Config(Settings):
    """Settings of the fake stage."""

    train: int
    """Steps."""


def inputs(config, key):
    return {}


def output(key):
    return "artifacts/train"


def run(config, job: Job) -> None:
    (job.out / "mine").touch()
    found = launch(Group.from_environment(), group_work.ranks, name=job.result, progress=job.progress)
    (job.out / "ranks").write_text(str(found))


if __name__ == "__main__":
    main(Path(__file__))
'''


@pytest.fixture
def two_machines(tmp_path):
    """Return a project whose training two machines share; their processes begin with libraries loaded."""
    project = Project(tmp_path / "project")
    project.write("stages/train.py", TRAIN)
    project.write("params.yaml", (project.folder / "params.yaml").read_text() + "train: {train: 3}\n")
    paths = (preloaded.BEGUN, project.environment["PYTHONPATH"], str(Path(__file__).parent))
    project.environment["PYTHONPATH"] = os.pathsep.join(paths)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        project.environment |= {
            "FEWSTEP_NODES": "2",
            "FEWSTEP_RENDEZVOUS": f"127.0.0.1:{probe.getsockname()[1]}",
        }
    return project


def train(project, *machines):
    """Run the stage on machines that have these variables, at once; return how each ended and all it said."""
    with ThreadPoolExecutor() as pool:
        ends = [pool.submit(project.run, "python -m stages.train", **own) for own in machines]
    return [end.result() for end in ends]


def test_the_stage_of_another_machine_helps_and_publishes_nothing(two_machines):
    project = two_machines
    (first, said), (second, helped) = train(project, {"FEWSTEP_PROCESSES": "2"}, {"FEWSTEP_NODE_RANK": "1"})
    assert (first, second) == (0, 0), said + helped
    assert (project / "artifacts/train/ranks").read_text() == "[0, 1, 2]"
    assert "Traceback" not in said + helped  # of torch, which logs at length
    assert "TCPStore" not in said + helped  # of the machine that is left behind
    assert "train: the share of this machine is done; the first machine publishes the result" in helped
    late = project.sh("python -m stages.train", FEWSTEP_NODE_RANK="1")
    assert "train: the first machine has finished it" in late
    both = [{"FEWSTEP_AGAIN": "1"} | own for own in ({}, {"FEWSTEP_NODE_RANK": "1"})]
    (first, said), (second, helped) = train(project, *both)
    assert (first, second) == (0, 0), said + helped
    assert (project / "artifacts/train/ranks").read_text() == "[0, 1]"
    refused = project.sh("python -m stages.make", ok=False, FEWSTEP_NODE_RANK="1")
    assert refused == "make: FEWSTEP_NODE_RANK is 1, but make trains nothing; unset it\n"


def test_a_machine_that_is_lost_ends_the_others_with_one_line_each(two_machines):
    project = two_machines
    project.write("stages/train.py", TRAIN.replace("group_work.ranks", "group_work.second_is_killed"))
    (first, said), (second, helped) = train(project, {}, {"FEWSTEP_NODE_RANK": "1"})
    assert (first, second) == (1, 1), said + helped
    assert "Traceback" not in said + helped
    assert re.search(r"train: another process of this training ended \(\w.*\); start the stage again", said)
    assert "train: process 1 of this training was killed by signal 9" in helped


def test_a_mistake_of_one_machine_is_told_there_and_ends_the_others(two_machines):
    project = two_machines
    project.write("stages/train.py", TRAIN.replace("group_work.ranks", "group_work.second_refuses"))
    (first, said), (second, helped) = train(project, {}, {"FEWSTEP_NODE_RANK": "1"})
    assert (first, second) == (1, 1), said + helped
    assert "Traceback" not in said + helped
    assert "train: there is no such model" in helped
    assert re.search(r"train: another process of this training ended \(\w.*\); start the stage again", said)


def test_a_meeting_place_that_is_taken_is_named(two_machines):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        said = two_machines.sh("python -m stages.train", ok=False, FEWSTEP_RENDEZVOUS=address)
    assert said.startswith(f"train: the machines of this training can't meet at {address} (FEWSTEP_REN")
    assert said.count("\n") == 1


def test_a_stage_under_torchrun_says_what_to_do_instead_of_waiting_for_itself(tmp_path):
    project = Project(tmp_path / "project")
    said = project.sh("python -m stages.make", ok=False, WORLD_SIZE="2", RANK="1")
    assert said.startswith("make: a stage starts its other processes itself: instead of torchrun (WORLD_SIZE")
    assert said.endswith("set FEWSTEP_PROCESSES=2\n")
    assert not (project.folder / ".fewstep").exists()
