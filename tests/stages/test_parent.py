"""The process that started a stage, and the one that it was reparented to when that died."""

import os
import subprocess
import sys
from types import SimpleNamespace

import psutil
import pytest
from processes import wait_for

from stages.process import parent

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells of a death")


def process(pid, name, parent, session=7):
    return SimpleNamespace(pid=pid, name=lambda: name, ppid=lambda: parent, session=session)


@pytest.mark.parametrize(
    ("above", "reparented"),
    [
        ([process(50, "dvc", 40)], False),
        ([process(50, "bash", 40), process(40, "python3.11", 30)], False),
        ([process(1, "systemd", 0, session=1)], True),
        ([process(900, "systemd", 1, session=900)], True),  # of a user
        ([process(50, "dash", 1), process(1, "systemd", 0, session=1)], True),
        # in a container, where all may be one session
        ([process(1, "dvc", 0)], False),
        ([process(50, "dash", 1), process(1, "python3.11", 0)], False),
        ([process(1, "tini", 0)], True),
        ([process(50, "dash", 1), process(1, "bash", 0)], True),
    ],
)
def test_a_reparented_stage_is_told_from_one_that_dvc_runs(monkeypatch, above, reparented):
    there = {found.pid: found for found in above}
    monkeypatch.setattr(parent, "look_up", there.get)
    monkeypatch.setattr(os, "getppid", lambda: above[0].pid)
    monkeypatch.setattr(os, "getsid", lambda pid: there[pid].session if pid else 7)
    assert parent.starter() == above[-1]
    assert parent.is_subreaper(parent.starter()) == reparented


def test_the_real_parent_is_found_and_alive():
    found = parent.look_up(os.getppid())
    assert found.pid == os.getppid()
    assert parent.alive(found)


def test_another_process_of_the_same_number_is_not_the_one_that_was_found(monkeypatch):
    found = parent.look_up(os.getppid())
    found._ident = (found.pid, found._ident[1] + 1)
    assert not parent.alive(found)


def test_a_process_that_only_waits_to_be_reaped_is_not_alive():
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    found = parent.look_up(child.pid)
    assert parent.alive(found)
    child.kill()
    wait_for(lambda: not parent.alive(found))
    assert parent.look_up(child.pid) is None
    assert child.returncode is None  # nobody has asked yet
    child.wait()


def test_a_starter_that_ends_while_it_is_looked_at_is_gone(monkeypatch):
    def gone():
        raise psutil.NoSuchProcess(50)

    monkeypatch.setattr(parent, "look_up", lambda pid: SimpleNamespace(pid=50, name=gone))
    assert parent.starter() is None
    monkeypatch.setattr(os, "getsid", lambda pid: 7 if pid == 0 else os.kill(2**22 + 1, 0))
    assert parent.is_subreaper(process(50, "dvc", 40))


def test_all_processes_name_the_same_parent_alike():
    code = "import os, psutil; print(hash(psutil.Process(os.getppid())))"
    said = [subprocess.check_output([sys.executable, "-c", code], text=True) for _ in range(2)]
    assert {int(text) for text in said} == {hash(psutil.Process())}
