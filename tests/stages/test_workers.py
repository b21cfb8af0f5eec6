"""Work on several processes: all of it is done, errors arrive, and nothing outlives the stage."""

import math
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from processes import alive, kill, wait_for
from workspace import CHECKOUT

from fewstep.errors import UserError
from stages import _workers
from stages._workers import spread, workers

FACTS: list[int] = []  # what `prepare` was given, in each worker


def prepare(*facts):
    FACTS[:] = facts


def multiply(item):
    time.sleep(0.01 * item)  # the first given are the last done
    return os.getpid(), item * FACTS[0]


def fail_at_two(item):
    if item == 2:
        raise UserError("two is too much")
    return item


def sleep(file):
    Path(file).write_text(str(os.getpid()))
    time.sleep(60)


@pytest.mark.parametrize("processes", [1, 2])
def test_every_item_comes_once_with_its_own_result(monkeypatch, processes):
    monkeypatch.setenv("FEWSTEP_WORKERS", str(processes))
    found = list(spread(multiply, [5, 3, 8, 1], prepare=prepare, facts=(7,)))
    assert sorted((item, result) for item, (_, result) in found) == [(1, 7), (3, 21), (5, 35), (8, 56)]
    pids = {pid for _, (pid, _) in found}
    assert (pids == {os.getpid()}) == (processes == 1)


@pytest.mark.parametrize("processes", [1, 2])
def test_an_exception_of_a_worker_reaches_the_caller(monkeypatch, processes):
    monkeypatch.setenv("FEWSTEP_WORKERS", str(processes))
    with pytest.raises(UserError, match="two is too much"):
        list(spread(fail_at_two, [1, 2, 3], prepare=prepare, facts=()))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells of a parent's death")
def test_workers_die_with_a_stage_that_is_killed(tmp_path):
    files = [str(tmp_path / name) for name in "ab"]
    code = (
        "import sys; import test_workers as t; from stages._workers import spread\n"
        "if __name__ == '__main__': list(spread(t.sleep, sys.argv[1:], prepare=t.prepare, facts=()))"
    )
    path = os.pathsep.join(map(str, (CHECKOUT, CHECKOUT / "tests", Path(__file__).parent)))
    environment = os.environ | {"FEWSTEP_WORKERS": "2", "PYTHONPATH": path}
    stage = subprocess.Popen([sys.executable, "-c", code, *files], env=environment)
    try:
        wait_for(lambda: all(Path(file).exists() and Path(file).read_text() for file in files))
    finally:
        kill(stage.pid)
        stage.wait()
    pids = [int(Path(file).read_text()) for file in files]
    assert len(set(pids)) == 2
    wait_for(lambda: not any(map(alive, pids)), seconds=30)  # half as long as they would sleep


@pytest.mark.parametrize("value", ["0", "-1", "two", "", "1.5"])
def test_a_number_of_processes_that_is_none_is_refused(monkeypatch, value):
    monkeypatch.setenv("FEWSTEP_WORKERS", value)
    with pytest.raises(
        UserError, match=f"FEWSTEP_WORKERS must be a number of processes from 1, got '{value}'"
    ):
        workers()


@pytest.mark.parametrize(("device", "count"), [("cpu", 3), ("cuda", 1)])
def test_one_worker_a_core_or_one_beside_a_gpu(monkeypatch, device, count):
    monkeypatch.setenv("FEWSTEP_DEVICE", device)
    monkeypatch.setattr("stages._flows.device", lambda: device)
    monkeypatch.setattr(_workers.os, "sched_getaffinity", lambda _: {0, 1, 5}, raising=False)
    monkeypatch.setattr(_workers, "quota", lambda _: math.inf)
    assert workers() == count


def test_where_no_affinity_is_known_all_cores_count(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    monkeypatch.setattr(_workers, "quota", lambda _: math.inf)
    assert _workers.cores() == 6


@pytest.mark.parametrize(
    ("files", "count"),
    [
        ({}, 6),
        ({"cpu.max": "max 100000"}, 6),
        ({"cpu.max": "200000 100000"}, 2),
        ({"cpu.max": "150000 100000"}, 2),
        ({"cpu.max": "10000 100000"}, 1),
        ({"cpu.max": "800000 100000"}, 6),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 6),
        ({"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"}, 3),
    ],
)
def test_a_container_that_is_allowed_less_than_it_sees_gets_fewer_workers(
    tmp_path, monkeypatch, files, count
):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    monkeypatch.setattr(_workers, "CGROUPS", tmp_path)
    monkeypatch.setattr(_workers.os, "sched_getaffinity", lambda _: set(range(6)), raising=False)
    assert _workers.cores() == count
