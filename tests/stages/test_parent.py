"""Who started a stage, and who merely adopted it."""

import os
import subprocess
import sys

import pytest
from processes import wait_for

from stages.process import parent
from stages.process.parent import Process

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux has /proc")


def process(pid, name, parent, session=7):
    return Process(pid=pid, started="0", name=name, parent=parent, session=session)


@pytest.mark.parametrize(
    ("above", "adopted"),
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
def test_an_adopted_stage_is_told_from_one_that_dvc_runs(monkeypatch, above, adopted):
    there = {found.pid: found for found in above}
    monkeypatch.setattr(parent, "_look_up", there.get)
    monkeypatch.setattr(os, "getppid", lambda: above[0].pid)
    monkeypatch.setattr(os, "getsid", lambda pid: 7)
    assert parent.starter() == above[-1]
    assert parent.adopts(parent.starter()) == adopted


def test_the_real_parent_is_found_and_alive():
    found = parent._look_up(os.getppid())
    assert (found.pid, found.session) == (os.getppid(), os.getsid(os.getppid()))
    assert parent.alive(found)
    assert not parent.alive(found._replace(started="another"))


def test_a_process_that_only_waits_to_be_reaped_is_not_alive():
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    found = parent._look_up(child.pid)
    assert parent.alive(found)
    child.kill()
    wait_for(lambda: not parent.alive(found))
    assert child.returncode is None  # nobody has asked yet
    child.wait()
