"""Work on several workers: all of it is done whatever dies, errors arrive, and nothing outlives the stage."""

import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import small_work
import torch
from processes import alive, kill, wait_for
from workspace import CHECKOUT

from fewstep.errors import UserError
from stages.run import variables
from stages.workers import machine
from stages.workers.machine import places, workers
from stages.workers.processes import Processes
from stages.workers.spread import spread

PATH = os.pathsep.join(map(str, (CHECKOUT, CHECKOUT / "tests", Path(__file__).parent)))


@pytest.fixture(scope="module")
def cluster():
    """A Ray cluster of two cores."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    yield cluster
    cluster.shutdown()


@pytest.fixture
def on_ray(cluster, monkeypatch):
    monkeypatch.setenv("FEWSTEP_BACKEND", "ray")
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    monkeypatch.setenv("PYTHONPATH", PATH)
    monkeypatch.setattr("stages.workers.ray_actors.LOOK", 0.1)
    return cluster


@pytest.fixture
def two_processes(monkeypatch):
    monkeypatch.setenv("FEWSTEP_WORKERS", "2")


backends = pytest.mark.parametrize("backend", ["two_processes", "on_ray"])


def test_one_worker_is_this_process(monkeypatch):
    monkeypatch.setenv("FEWSTEP_WORKERS", "1")
    found = list(spread(small_work.multiply, [5, 3], start_worker=small_work.start_worker, facts=(7,)))
    assert found == [(5, (os.getpid(), 35)), (3, (os.getpid(), 21))]


def test_without_items_no_worker_is_started(monkeypatch):
    monkeypatch.setenv("FEWSTEP_BACKEND", "ray")
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    assert list(spread(small_work.multiply, [], start_worker=small_work.refuse, facts=())) == []


@backends
def test_every_item_comes_once_with_its_own_result(request, backend):
    request.getfixturevalue(backend)
    found = list(spread(small_work.multiply, [5, 3, 8, 1], start_worker=small_work.start_worker, facts=(7,)))
    assert sorted((item, result) for item, (_, result) in found) == [(1, 7), (3, 21), (5, 35), (8, 56)]
    assert os.getpid() not in {pid for _, (pid, _) in found}


@backends
def test_workers_have_the_threads_of_the_stage_and_leave_control_c_to_it(request, monkeypatch, backend):
    request.getfixturevalue(backend)
    monkeypatch.setenv("FEWSTEP_THREADS", "3")
    found = list(spread(small_work.surroundings, [1, 2], start_worker=small_work.start_worker, facts=()))
    assert [result for _, result in found] == [{"device": "cpu", "threads": "3", "deaf": True}] * 2


@backends
def test_an_error_while_a_worker_starts_reaches_the_caller(request, backend):
    request.getfixturevalue(backend)
    with pytest.raises(UserError, match=r"^there is no such model$") as caught:
        list(spread(small_work.multiply, [1, 2], start_worker=small_work.refuse, facts=()))
    assert "in refuse" in str(caught.value.__cause__)  # the traceback of the worker


def test_an_exception_of_a_worker_reaches_the_caller(two_processes):
    with pytest.raises(UserError, match=r"^two is too much$"):
        list(spread(small_work.fail_at_two, [1, 2, 3], start_worker=small_work.start_worker, facts=()))


def test_only_the_item_of_a_killed_worker_is_done_again(two_processes, tmp_path, capsys):
    files = [str(tmp_path / name) for name in ("first", "victim", "third", "fourth", "fifth")]
    found = list(spread(small_work.visit, files, start_worker=small_work.start_worker, facts=()))
    assert sorted(file for file, _ in found) == sorted(files)
    assert tries(tmp_path) == {"first": 1, "victim": 2, "third": 1, "fourth": 1, "fifth": 1}
    assert capsys.readouterr().out == f"a worker died at work on {tmp_path / 'victim'} (SIGKILL)\n"


def test_a_ray_cluster_may_lose_a_worker_and_be_joined_by_a_machine(on_ray, tmp_path, capsys):
    """Two cores can't hold three guests that wait for each other."""
    files = [str(tmp_path / name) for name in ("herald", "victim", "guest1", "guest2", "guest3")]
    results = spread(small_work.visit, files, start_worker=small_work.start_worker, facts=())
    found = [next(results)]
    on_ray.add_node(num_cpus=1)
    found += results
    assert sorted(file for file, _ in found) == sorted(files)
    assert tries(tmp_path) == {"herald": 1, "victim": 2, "guest1": 1, "guest2": 1, "guest3": 1}
    assert len({pid for file, pid in found if "guest" in file}) == 3
    assert f"a worker died at work on {tmp_path / 'victim'}" in capsys.readouterr().out


def tries(folder):
    """How often each file was visited."""
    return {file.name: len(file.read_text().split()) for file in folder.iterdir()}


def test_an_item_that_always_kills_is_named(two_processes):
    with pytest.raises(UserError, match=r"3 workers in a row died at work on 7 .*FEWSTEP_WORKERS"):
        list(spread(small_work.die, [7, 7], start_worker=small_work.start_worker, facts=()))


def test_workers_that_never_get_ready_are_given_up(two_processes):
    with pytest.raises(UserError, match="3 workers in a row died getting ready"):
        list(spread(small_work.multiply, [1, 2], start_worker=small_work.die, facts=()))


def test_a_replacement_process_gets_the_gpu_of_the_one_it_replaces():
    pool = Processes(["cuda:0", "cuda:1"])
    first, second = pool.acquire(2)
    first.give(small_work.surroundings, (None,))
    assert pool.heard([first]) == [first]
    assert (first.take()[0]["device"], second.place) == ("cuda:0", "cuda:1")
    assert not pool.acquire(1)
    pool.dismiss(first)
    (third,) = pool.acquire(2)
    assert third.place == "cuda:0"
    pool.close()
    assert not any(alive(worker.process.pid) for worker in (first, second, third))


def test_a_ray_cluster_without_a_free_gpu_is_refused_after_a_while(on_ray, monkeypatch):
    monkeypatch.setattr("stages.workers.ray_actors.device", lambda: "cuda")
    monkeypatch.setattr("stages.workers.ray_actors.WAIT_SECONDS", 0.2)
    with pytest.raises(UserError, match=r"each needs 1 GPU, and of 0 there 0 are free.*ray start --address"):
        list(spread(small_work.multiply, [1], start_worker=small_work.start_worker, facts=(7,)))


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nonsense", "ray://127.0.0.1:1"])
def test_a_ray_cluster_that_is_not_there_is_named(monkeypatch, address):
    monkeypatch.setenv("FEWSTEP_BACKEND", "ray")
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(UserError, match=rf"RAY_ADDRESS {address} .*`ray start --head`"):
        list(spread(small_work.multiply, [1], start_worker=small_work.start_worker, facts=(7,)))


def test_the_address_of_rays_client_is_refused_when_any_stage_starts(monkeypatch):
    monkeypatch.setenv("FEWSTEP_BACKEND", "ray")
    monkeypatch.setenv("RAY_ADDRESS", "ray://head.example:10001")
    with pytest.raises(UserError, match=r"by the address that `ray start --head` .* head\.example:6379$"):
        variables.must_be_right()


def test_ray_gets_settings_and_no_secrets(monkeypatch):
    from stages.workers.ray_cluster import environment

    monkeypatch.setenv("FEWSTEP_SCRATCH", "/shared")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush")
    monkeypatch.setenv("FEWSTEP_NOTIFY_URL", "hush")
    monkeypatch.setenv("FEWSTEP_STORE_TOKEN", "hush")
    monkeypatch.setenv("FEWSTEP_SHARDS", "https://store.example?sig=hush")
    told = environment()
    assert (told["FEWSTEP_SCRATCH"], told["OMP_NUM_THREADS"], told["FEWSTEP_DEVICE"]) == (
        "/shared",
        "1",
        "cpu",
    )
    assert os.environ["RAY_AUTH_TOKEN"] not in told.values()
    assert not [name for name, value in told.items() if "hush" in value]


def test_without_ray_no_stage_begins_and_the_message_says_how_to_install_it(monkeypatch):
    monkeypatch.setenv("FEWSTEP_BACKEND", "ray")
    monkeypatch.setitem(sys.modules, "ray", None)  # as if it were not installed
    with pytest.raises(UserError, match=r"FEWSTEP_BACKEND ray needs Ray: pip install 'fewstep\[ray\]'"):
        variables.must_be_right()


def test_an_unknown_back_end_is_refused_with_the_nearest(monkeypatch):
    monkeypatch.setenv("FEWSTEP_BACKEND", "rays")
    with pytest.raises(UserError, match="FEWSTEP_BACKEND: unknown back end 'rays'; did you mean 'ray'"):
        list(spread(small_work.multiply, [1], start_worker=small_work.start_worker, facts=(7,)))


def test_a_worker_with_other_code_is_refused(tmp_path, monkeypatch):
    from stages.workers.ray_actor import arrive, code

    monkeypatch.chdir(tmp_path)
    arrive(str(tmp_path / "another machine has this"), code())
    assert Path.cwd() == tmp_path
    with pytest.raises(UserError, match=f"{CHECKOUT} on .* holds other code than the stage"):
        arrive(str(tmp_path), "other")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells of a parent's death")
@pytest.mark.parametrize(
    ("backend", "how"), [("processes", signal.SIGKILL), ("processes", signal.SIGINT), ("ray", signal.SIGKILL)]
)
def test_workers_die_with_a_stage_that_is_killed(tmp_path, backend, how):
    files = [str(tmp_path / name) for name in "ab"]
    code = (
        "import sys; import small_work as t; from stages.workers.spread import spread\n"
        "if __name__ == '__main__':\n"
        "    list(spread(t.sleep, sys.argv[1:], start_worker=t.start_worker, facts=()))"
    )
    environment = os.environ | {"FEWSTEP_BACKEND": backend, "FEWSTEP_WORKERS": "2", "PYTHONPATH": PATH}
    stage = subprocess.Popen(
        [sys.executable, "-c", code, *files],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        working = lambda: all(Path(file).exists() and Path(file).read_text() for file in files)  # noqa: E731
        wait_for(lambda: stage.poll() is not None or working())
    finally:
        os.killpg(stage.pid, how) if how == signal.SIGINT else kill(stage.pid)
        _, said = stage.communicate()
    assert working(), said
    pids = [int(Path(file).read_text()) for file in files]
    assert len(set(pids)) == 2
    wait_for(lambda: not any(map(alive, pids)), seconds=30)  # half as long as they would sleep
    assert said.count("Traceback") == (how == signal.SIGINT)  # that of the stage, as it is no real one


@pytest.mark.parametrize("value", ["0", "-1", "two", "", "1.5"])
def test_a_number_of_processes_that_is_none_is_refused(monkeypatch, value):
    monkeypatch.setenv("FEWSTEP_WORKERS", value)
    with pytest.raises(
        UserError, match=f"FEWSTEP_WORKERS must be a number of processes from 1, got '{value}'"
    ):
        workers(default=1)


@pytest.mark.parametrize(
    ("device", "asked", "expected"),
    [
        ("cpu", None, ["cpu"] * 3),
        ("cpu", "2", ["cpu"] * 2),
        ("cuda", None, ["cuda:0", "cuda:1"]),
        ("cuda", "3", ["cuda:0", "cuda:1", "cuda:0"]),
        ("cuda:1", None, ["cuda:1"]),
        ("cuda:1", "2", ["cuda:1"] * 2),
    ],
)
def test_one_process_a_core_or_one_a_gpu(monkeypatch, device, asked, expected):
    if asked:
        monkeypatch.setenv("FEWSTEP_WORKERS", asked)
    monkeypatch.setattr(machine, "device", lambda: device)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda _: {0, 1, 5}, raising=False)
    monkeypatch.setattr(machine, "quota", lambda _: math.inf)
    assert places() == expected


def test_where_no_affinity_is_known_all_cores_count(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    monkeypatch.setattr(machine, "quota", lambda _: math.inf)
    assert machine.cores() == 6


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
    monkeypatch.setattr(machine, "CGROUPS", tmp_path)
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda _: set(range(6)), raising=False)
    assert machine.cores() == count
