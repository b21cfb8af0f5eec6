"""Stages on workers: two clones on this machine, a server, and a folder as the remote."""

import copy
import json
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
import yaml
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterDeploymentId
from prefect.client.schemas.objects import StateType
from prefect.settings import PREFECT_API_URL, temporary_settings
from processes import below, kill, wait_for
from toy_project import Toy
from workspace import CHECKOUT

from fewstep.errors import UserError
from flows import deploy, pipeline, stage, worker
from flows.dvc import lockfile, repo, storage
from flows.dvc.failures import StageError
from flows.system import git, processes
from flows.workers import driver, pools
from flows.workspaces import clone
from stages.settings import checks, discovery

JOB = json.loads((CHECKOUT / pools.JOB).read_text())
CODE = ("flows", "stages", "fewstep", "infra")
TWO_STAGES = """
stages:
  first:
    cmd: python work.py first artifacts/many/first
    deps: [data]
    params: [seed, first]
    outs: [artifacts/many/first]
  last:
    cmd: python work.py last artifacts/last
    deps: [artifacts/many]
    params: [last]
    outs: [artifacts/last]
"""


@pytest.fixture(autouse=True)
def server(prefect_api, monkeypatch):
    monkeypatch.setattr(checks, "check", lambda params: None)  # the toy's are no real stages'
    monkeypatch.setattr(pipeline.bring_up_to_date, "retry_delay_seconds", 0)
    monkeypatch.setenv("FEWSTEP_TRACKING", "off")
    monkeypatch.setenv("FEWSTEP_POOLS", "on")
    with temporary_settings({PREFECT_API_URL: prefect_api}):
        yield


@pytest.fixture(scope="module")
def deployed(prefect_api):
    """A server that knows the pools and how stages are started there."""
    with temporary_settings({PREFECT_API_URL: prefect_api}), get_client(sync_client=True) as client:
        for pool in ("cpu", "gpu"):
            client.create_work_pool(WorkPoolCreate(name=pool, type="process", base_job_template=JOB))
    command = "prefect --no-prompt deploy -n cpu -n gpu --prefect-file infra/prefect.yaml"
    done = subprocess.run(
        [sys.executable, "-m", *command.split()],
        cwd=CHECKOUT,
        env=os.environ | {"PREFECT_API_URL": prefect_api},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


class Team:
    """A driver and two workers, each with a clone, and a folder in which all note what they do."""

    def __init__(self, top):
        self.top, self.yard, self.driver = top, Toy(top / "yard"), Toy(top / "driver")
        self.processes = {}

    def make(self, template):
        shutil.copytree(template.root, self.driver.root)
        for name in CODE:
            skipped = shutil.ignore_patterns("__pycache__")
            shutil.copytree(CHECKOUT / name, self.driver.root / name, ignore=skipped)
        self.yard.root.mkdir()
        self.driver.edit("work.py", 'open("began"', f'open("{self.yard.root}/began"')
        self.driver.edit("work.py", 'Path("orders"', f'Path("{self.yard.root}/orders"')
        (self.driver.root / "dvc.yaml").write_text(TWO_STAGES)
        (self.driver.root / driver.FILE).write_text("first: cpu\nlast: gpu\n")
        remote = self.top / "remote"
        self.driver.sh(f"mkdir {remote} && dvc remote add -q -d store {remote}")
        self.driver.sh("echo __pycache__ >> .gitignore && git add -A && git commit -qm team")

    def clone(self, name):
        self.driver.sh(f"git clone -q . {self.top / name}")
        return Toy(self.top / name)

    def work(self, pool):
        checkout = self.top / pool
        if not checkout.exists():
            self.clone(pool)
        with (self.top / f"{pool}.log").open("w") as log:
            self.processes[pool] = subprocess.Popen(
                [sys.executable, "-m", "fewstep", "worker", pool],
                cwd=checkout,
                env=os.environ | {"PREFECT_API_URL": PREFECT_API_URL.value()},
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def wait_until_online(self):
        with get_client(sync_client=True) as client:
            for pool in self.processes:
                wait_for(lambda pool=pool: client.read_workers_for_work_pool(pool), every=0.5)

    def end(self, pool):
        process = self.processes.pop(pool)
        for pid in [*below(process.pid), process.pid]:
            kill(pid)
        process.wait()


@pytest.fixture
def team(template, tmp_path, monkeypatch):
    monkeypatch.delenv("FEWSTEP_SCRATCH", raising=False)
    made = Team(tmp_path)
    made.make(template)
    yield made
    for pool in list(made.processes):
        made.end(pool)


def run(toy):
    return pipeline.pipeline(toy.root, return_state=True)


def locked(toy):
    return yaml.safe_load((toy.root / "dvc.lock").read_text())["stages"]


def test_a_chain_runs_on_two_workers_as_it_does_here_and_what_was_made_before_needs_none(team, deployed):
    team.work("cpu")
    team.work("gpu")
    team.wait_until_online()
    state = run(team.driver)
    assert state.is_completed(), state.message
    assert state.message == "2 completed"
    assert team.yard.began() == ["first", "last"]

    # What the remote has is there for all, though the driver has no copy.
    team.end("cpu")
    assert not (team.driver.root / "artifacts").exists()
    assert run(team.driver).message == "2 cached"
    assert team.yard.began() == []
    assert not (team.driver.root / "artifacts").exists()  # until `dvc pull`
    (files := team.top / "remote" / "files").rename(team.top / "lost")
    assert repo.lost(team.driver.root, repo.read(team.driver.root).values()) == {"first", "last"}
    (team.top / "lost").rename(files)

    team.driver.sh("dvc pull -q")
    assert "up to date" in team.driver.sh("dvc status")
    alone = team.clone("alone")
    alone.sh("dvc repro -q")
    assert locked(team.driver) == locked(alone)
    assert (team.driver.root / "dvc.lock").read_bytes() == (alone.root / "dvc.lock").read_bytes()

    # What is made again replaces it.
    team.driver.edit("params.yaml", "last: {width: 3}", "last: {width: 4}")
    assert run(team.driver).message == "1 cached, 1 completed"
    assert not (team.driver.root / "artifacts/last").exists()  # what was there is of another run
    assert run(team.driver).message == "2 cached"
    team.driver.sh("dvc pull -q")
    assert "width: 4" in (team.driver.root / "artifacts/last/params.yaml").read_text()
    for pool in ("cpu", "gpu"):  # a worker's own checkout stays as it was
        assert git.changes(team.top / pool) == []
        assert list((team.top / pool / ".fewstep" / "workspaces").iterdir()) == []


def test_a_worker_at_another_commit_or_with_changes_refuses(toy):
    own = git.commit(toy.root)
    stage.refuse_another_commit(toy.root, own)
    told = f"the worker's checkout is at commit {own[:12]}, the driver's at 000000000000; bring both to one"
    with pytest.raises(UserError, match=told):
        stage.refuse_another_commit(toy.root, "0" * 40)
    toy.edit("work.py", "VERSION = 1", "VERSION = 2")
    with pytest.raises(UserError, match=rf"the worker's checkout at commit {own[:12]} differs.*: work\.py"):
        stage.refuse_another_commit(toy.root, own)


def test_a_pool_without_workers_is_reported_and_nothing_stays_scheduled(team, deployed, monkeypatch):
    monkeypatch.setattr(driver, "EMPTY_POOL_SECONDS", 0.5)
    monkeypatch.setattr(
        driver.RunWatch, "_online", lambda watch: False
    )  # those of other tests may count still
    state = run(team.driver)
    assert state.is_failed()
    assert "no worker of pool cpu is online" in state.message
    assert "fewstep worker cpu" in state.message
    with get_client(sync_client=True) as client:
        deployment = client.read_deployment_by_name("fewstep-stage/cpu")
        mine = FlowRunFilter(deployment_id=FlowRunFilterDeploymentId(any_=[deployment.id]))
        newest, *_ = client.read_flow_runs(flow_run_filter=mine, sort="EXPECTED_START_TIME_DESC", limit=1)
    assert newest.state.is_cancelled()


def test_a_server_that_knows_no_pool_is_named(toy, monkeypatch):
    with (
        get_client(sync_client=True) as client,
        pytest.raises(UserError, match=r"no deployment fewstep-stage/tpu; .*deploy"),
    ):
        driver.send(client, "first", "tpu", {})


def test_a_pool_that_the_server_refuses_is_reported(prefect_api, monkeypatch):
    monkeypatch.setenv("PREFECT_API_URL", prefect_api)
    monkeypatch.setattr(pools, "CHAINS", "prefect-chains")
    with pytest.raises(UserError, match=r"server does not take pool prefect-chains: .*reserved"):
        deploy.deploy(CHECKOUT)


class Server:
    """Answers as told, one look after the other, in a time of its own."""

    api_url = "http://server/api"

    def __init__(self, monkeypatch, *answers):
        self.answers, self.now, self.set = list(answers), 0.0, []
        monkeypatch.setattr(driver.time, "monotonic", lambda: self.now)

    def read_flow_run(self, run):
        seconds, state, updated = self.answers.pop(0)
        self.now += seconds
        final = state in (StateType.COMPLETED, StateType.CRASHED)
        told = SimpleNamespace(type=state, is_final=lambda: final)
        return SimpleNamespace(state=told, state_name=state.value, updated=updated, name="first")

    def read_workers_for_work_pool(self, pool):
        return [SimpleNamespace(status="ONLINE")]

    def set_flow_run_state(self, run, state, force=False):
        self.set.append(state)


def test_a_run_is_marked_crashed_only_when_its_worker_sends_no_updates(monkeypatch):
    running = StateType.RUNNING
    server = Server(monkeypatch, (0, running, 1), (80, running, 2), (80, running, 2), (20, running, 2))
    watch = driver.RunWatch(server, "run", "gpu", lambda line: None)
    for _ in range(3):
        assert watch.look() is None
    assert server.set == []
    watch.look()
    assert [(state.type, state.message) for state in server.set] == [
        (StateType.CRASHED, "its worker has given no sign of life for 90 s")
    ]


def test_a_stage_waits_for_a_busy_worker_as_long_as_it_takes(monkeypatch):
    server = Server(monkeypatch, *[(3600, StateType.SCHEDULED, 1)] * 5)
    watch = driver.RunWatch(server, "run", "gpu", lambda line: None)
    assert [watch.look() for _ in range(5)] == [None] * 5
    assert server.set == []


def test_an_interrupted_driver_cancels_what_it_scheduled(monkeypatch):
    server = Server(monkeypatch, *[(0, StateType.RUNNING, 1)] * 5)
    monkeypatch.setattr(processes, "stopping", lambda: True)
    with pytest.raises(processes.StoppedError):
        driver.wait(server, "run", "gpu", lambda line: None)
    assert [state.type for state in server.set] == [StateType.CANCELLING]


def test_changed_checkouts_are_refused_apart_from_what_travels(toy):
    toy.edit("params.yaml", "width: 3", "width: 4")
    (toy.root / "dvc.lock").write_text("")
    clone.check_clean(toy.root, "this")
    toy.edit("work.py", "VERSION = 1", "VERSION = 2")
    (toy.root / "new").touch()
    with pytest.raises(
        UserError, match=rf"this checkout at commit {git.commit(toy.root)[:12]}.*: work.py, new"
    ):
        clone.check_clean(toy.root, "this")


def test_shared_storage_of_another_project_is_refused(toy, tmp_path):
    with pytest.raises(UserError, match=r"shares no outputs.*dvc remote add -d"):
        storage.claim(toy.root)
    branch = toy.sh("git branch --show-current").strip()
    for share in (f"dvc remote add -q -d store {tmp_path}/remote", f"dvc config cache.dir {tmp_path}/cache"):
        toy.sh(share)
        project = git.first_commit(toy.root)
        with pytest.raises(UserError, match=r"the worker's DVC .* is not the driver's: it has no data"):
            storage.check(toy.root, project)
        assert storage.claim(toy.root) == project
        assert storage.claim(toy.root) == project
        storage.check(toy.root, project)
        with pytest.raises(
            UserError, match=f"data of the project begun at {project[:12]}.*that.*begun at 0000"
        ):
            storage.check(toy.root, "0" * 40)
        toy.sh("git checkout -q --orphan other && git commit -qm another --allow-empty")
        with pytest.raises(UserError, match=rf"another project's data: it began at commit {project[:12]}"):
            storage.claim(toy.root)
        toy.sh(f"git checkout -qf {branch} && git branch -qD other")


def test_an_entry_is_merged_as_dvc_writes_it(toy_that_ran):
    whole = (toy_that_ran.root / "dvc.lock").read_bytes()
    entries = locked(toy_that_ran)
    (toy_that_ran.root / "dvc.lock").unlink()
    for name in reversed(toy_that_ran.stages):
        outcome, entry = stage.decode_result(stage.encode_result(name, "ran", entries[name]))
        assert outcome == "ran"
        lockfile.merge(toy_that_ran.root, name, entry)
    assert locked(toy_that_ran) == entries
    assert "up to date" in toy_that_ran.sh("dvc status")
    assert sorted((toy_that_ran.root / "dvc.lock").read_bytes().splitlines()) == sorted(whole.splitlines())


def test_stages_below_an_output_that_is_made_again_are_out_of_date(toy_that_ran):
    root, entries = toy_that_ran.root, locked(toy_that_ran)
    lockfile.merge(root, "middle@left", entries["middle@left"])  # the same once more
    assert locked(toy_that_ran) == entries
    new = copy.deepcopy(entries)
    for name in ("middle@left", "first"):
        new[name]["outs"][0]["md5"] = "0" * 32 + ".dir"
    lockfile.merge(root, "middle@left", new["middle@left"])
    assert locked(toy_that_ran).keys() == entries.keys() - {"last"}
    lockfile.merge(root, "first", new["first"])
    assert locked(toy_that_ran) == {"first": new["first"]}


def test_every_stage_has_a_pool():
    pools = yaml.safe_load((CHECKOUT / driver.FILE).read_text())
    assert sorted(pools) == discovery.names()
    assert set(pools.values()) == {"cpu", "gpu"}
    deployed = yaml.safe_load((CHECKOUT / "infra" / "prefect.yaml").read_text())["deployments"]
    served = {item["name"] for item in deployed if item["entrypoint"] == "flows.stage.run_stage"}
    assert set(pools.values()) == served


def test_a_stage_without_a_pool_is_reported(tmp_path):
    (tmp_path / "infra").mkdir()
    (tmp_path / driver.FILE).write_text("first: cpu")
    assert driver.pool_of("first@left", tmp_path) == "cpu"
    with pytest.raises(UserError, match="names no pool for last; add a line"):
        driver.pool_of("last", tmp_path)


def test_pools_are_on_or_off(monkeypatch):
    assert driver.wanted()
    monkeypatch.delenv("FEWSTEP_POOLS")
    assert not driver.wanted()
    monkeypatch.setenv("FEWSTEP_POOLS", "yes")
    with pytest.raises(UserError, match="FEWSTEP_POOLS must be on or off, got 'yes'"):
        driver.wanted()


def test_a_worker_does_no_more_at_once_than_its_machine_can(monkeypatch):
    monkeypatch.setenv("PREFECT_API_URL", "http://server/api")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setenv("FEWSTEP_STAGES_AT_ONCE", "3")
    monkeypatch.delenv("FEWSTEP_PROCESSES", raising=False)
    assert [worker.limit(pool) for pool in ("cpu", "gpu", "driver")] == [3, 1, 1]
    assert worker.environment("gpu")["FEWSTEP_PROCESSES"] == "2"  # the GPUs share a training
    assert "FEWSTEP_PROCESSES" not in worker.environment("cpu")
    monkeypatch.delenv("PREFECT_API_URL")
    with pytest.raises(UserError, match="PREFECT_API_URL"):
        worker.environment("cpu")


def test_errors_of_a_worker_name_its_pool(monkeypatch, tmp_path):
    failed = SimpleNamespace(
        name="first",
        state=SimpleNamespace(
            name="Mistake", message="mend it", is_completed=lambda: False, is_cancelled=lambda: False
        ),
    )
    monkeypatch.setattr(driver, "pool_of", lambda *_: "cpu")
    monkeypatch.setattr(driver, "order", lambda *_: {})
    monkeypatch.setattr(driver, "send", lambda *_: "run")
    monkeypatch.setattr(driver, "wait", lambda *_: failed)
    with pytest.raises(StageError, match="first on a worker of pool cpu: mend it") as told:
        driver.reproduce("first", tmp_path, print)
    assert not told.value.transient
    failed.state.name = "Failed"
    with pytest.raises(StageError) as told:
        driver.reproduce("first", tmp_path, print)
    assert told.value.transient
