"""Commands in processes that begin with libraries loaded do what they do in others."""

import os
import re
import signal
import socket
from contextlib import ExitStack

import preloaded
import pytest
from fake_project import Project
from processes import kill, look_up, wait_for
from small_work import half_an_answer

from flows.dvc import reproduce
from stages.workers.processes import Process
from stages.workers.sharing import DiedError

REPRODUCE = ["python", "-P", reproduce.__file__, "make", "told.json"]


@pytest.fixture
def project(tmp_path):
    project = Project(tmp_path / "project").with_dvc()
    project.environment.pop("COVERAGE_PROCESS_CONFIG", None)
    return project


def both(project, command: str) -> tuple[str, str]:
    """Run a command in a process with libraries and in another; return what each said, and DVC's lock."""
    found = []
    for how in (command, f":; {command}"):
        there = project.at(project.folder.with_name("other"))
        assert preloaded.fits(how) == (how == command)
        said = there.sh(how, ok=None)
        lock = there / "dvc.lock"
        found.append((re.sub(r"\S+ part/s", "", said), lock.exists() and lock.read_text()))
        there.folder.rename(there.folder.with_name(f"done-{len(found)}"))
    return tuple(found)


@pytest.mark.parametrize("command", ["dvc repro", "python -m stages.use", "python -m stages.make"])
def test_commands_with_preloaded_libraries_print_and_write_the_same(project, command):
    """The second fails for want of a key."""
    with_libraries, other = both(project, command)
    assert with_libraries == other


def test_commands_with_options_read_at_start_up_are_run_by_a_shell(project):
    assert not preloaded.fits("dvc repro --force")
    threads = project.environment | {"FEWSTEP_THREADS": "2"}
    assert preloaded.run("dvc repro", project.folder, threads, seconds=60) is None
    assert not (project / "dvc.lock").exists()
    assert "Running stage 'make'" in project.sh("dvc repro", FEWSTEP_THREADS="2")


def test_a_client_that_disconnects_early_does_not_stop_the_server(project):
    socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET).connect(f"{os.environ[preloaded.PLACE]}/dvc")
    assert preloaded.run("dvc status", project.folder, project.environment, seconds=60)


def sooner(project) -> dict[str, str]:
    """The variable with which a command of DVC's begins with libraries loaded."""
    return {"PYTHONPATH": os.pathsep.join((preloaded.BEGUN, project.environment["PYTHONPATH"]))}


def here(project) -> list[int]:
    """Return the processes that work in the project."""
    return project.running(lambda word: True)


def test_dvc_with_preloaded_libraries_writes_the_same_outcome(project):
    found = []
    for environment in (sooner(project), {}):
        there = project.at(project.folder.with_name("other"))
        there.sh(" ".join(REPRODUCE), **environment)
        found.append(((there / "told.json").read_text(), (there / "dvc.lock").read_text()))
        there.folder.rename(there.folder.with_name(f"done-{len(found)}"))
    assert found[0] == found[1]
    assert '"outcome": "ran"' in found[0][0]


def test_killing_dvc_kills_the_command_that_started_it(project):
    project.edit("params.yaml", "parts: 3", "parts: 3, seconds: 600")
    command = project.begin(*REPRODUCE, **sooner(project))
    wait_for(lambda: list(project.folder.glob(".fewstep/scratch/make.*/work/attempts.log")))
    (dvc,) = [pid for pid in here(project) if look_up(pid).group == pid != command.pid]
    kill(dvc)
    assert command.wait(60) == -signal.SIGKILL
    wait_for(lambda: not here(project))
    assert not (project / "told.json").exists()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_signal_to_the_dvc_command_ends_all_its_processes(project, how):
    project.edit("params.yaml", "parts: 3", "parts: 3, seconds: 600")
    command = project.begin(*REPRODUCE, **sooner(project))
    wait_for(lambda: list(project.folder.glob(".fewstep/scratch/make.*/work/attempts.log")))
    assert len(here(project)) == 3  # what was begun, DVC and the stage
    kill(command.pid, how)
    assert command.wait(60) == (1 if how == signal.SIGINT else -how)
    wait_for(lambda: not here(project))
    assert (project / "told.json").exists() == (how == signal.SIGINT)


@pytest.mark.parametrize("open_files", [0, 200])
def test_a_worker_with_preloaded_libraries_works_and_dies_as_others(begun, open_files):
    with ExitStack() as held:
        for _ in range(open_files):  # so that the pipe to the worker has a higher number
            held.enter_context(open(os.devnull))
        worker = Process("cpu")
    worker.give(os.getpid, ())
    pid, *_ = worker.take()
    assert pid != worker.process.pid
    kill(pid)
    with pytest.raises(DiedError, match="SIGKILL"):
        worker.take()


def test_a_worker_that_dies_in_the_middle_of_an_answer_died(begun):
    worker = Process("cpu")
    worker.give(half_an_answer, ())
    with pytest.raises(DiedError, match="SIGKILL"):
        worker.take()


def test_libraries_of_flows_change_nothing_of_what_dvc_says(project):
    """Prefect, for one, writes what others log to the error stream, with tracebacks."""
    run = ["python", "-m", "prefect.engine"]
    assert "Invalid flow run id" in project.sh(" ".join(run), ok=False, **sooner(project))
    project.edit("params.yaml", "word: hello", "word: hello, fail: user")
    with_libraries, other = both(project, "dvc repro")
    assert with_libraries == other
    assert "too rude" in other[0]
