import json
import subprocess
import sys
from pathlib import Path

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Running
from processes import kill, wait_for

from fewstep.errors import UserError
from flows import recover
from flows.dvc import commands
from flows.workspaces import workspace_lock


@pytest.fixture
def dead():
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def leave_lock(root, pid):
    entry = {"pid": pid, "cmd": "dvc repro first"}
    rwlock = {"write": {str(root / "artifacts/first"): entry}, "read": {str(root / "data"): [entry]}}
    (root / ".dvc/tmp/rwlock").write_text(json.dumps(rwlock))


@pytest.fixture(autouse=True)
def no_server():
    with temporary_settings({PREFECT_API_URL: None}):
        yield


@pytest.mark.parametrize("reused", [False, True], ids=["dead", "number of another process"])
def test_locks_of_the_dead_are_removed_and_work_goes_on(toy_that_ran, dead, reused):
    root = toy_that_ran.root
    leave_lock(root, 1 if reused else dead)
    toy_that_ran.edit("params.yaml", "rate: 0.1", "rate: 0.2")
    (told,) = recover.recover(root)
    assert told == f"removed the DVC lock of process {1 if reused else dead} (dvc repro first) in {root}"
    assert commands.reproduce("first", root, lambda line: None) == "ran"
    assert recover.recover(root) == []


def test_a_half_written_lock_is_removed(toy):
    (toy.root / ".dvc/tmp/rwlock").write_text('{"write": {"')
    assert recover.recover(toy.root) == [
        f"removed the DVC lock of a process that died while it wrote in {toy.root}"
    ]


@pytest.mark.parametrize(
    "words",
    [["dvc", "repro"], ["-m", "stages.pretrain"], ["/bin/fewstep", "run"], ["-P", "flows/dvc/reproduce.py"]],
)
def test_nothing_is_touched_while_anything_is_at_work(toy, dead, words):
    leave_lock(toy.root, dead)
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", *words], cwd=toy.root)
    try:
        wait_for(lambda: words[1] in Path(f"/proc/{process.pid}/cmdline").read_text())
        with pytest.raises(UserError, match=rf"end them or wait.*\n  process {process.pid}: .*{words[1]}"):
            recover.recover(toy.root)
    finally:
        kill(process.pid)
        process.wait()
    assert (toy.root / ".dvc/tmp/rwlock").exists()


def test_a_living_flow_is_named(toy):
    told = r"flow run calm-fox \(123, process \d+ on .*running"
    with (
        workspace_lock.held(workspace_lock.lock_of(toy.root), "calm-fox", "123"),
        pytest.raises(UserError, match=told),
    ):
        recover.recover(toy.root)


def test_a_flow_that_died_is_forgotten_and_marked_crashed(toy, prefect_api):
    lock = workspace_lock.lock_of(toy.root)
    with temporary_settings({PREFECT_API_URL: prefect_api}), get_client(sync_client=True) as client:
        run = client.create_flow_run(flow(lambda: None, name="fewstep"), state=Running())
        lock.parent.mkdir()
        note = {"name": "calm-fox", "id": str(run.id), "pid": 1, "host": "there"}
        workspace_lock.note_of(lock).write_text(json.dumps(note))
        (told,) = recover.recover(toy.root)
        assert told.startswith(f"forgot flow run calm-fox ({run.id}, process 1 on there), which died")
        assert told.endswith(", and marked it Crashed in Prefect")
        assert client.read_flow_run(run.id).state.is_crashed()
    assert recover.recover(toy.root) == []


def test_variants_are_recovered_too(toy, dead):
    variants = toy.root / ".fewstep/variants"
    (variants / "half.tmp").mkdir(parents=True)
    toy.sh(f"git clone -q . {variants / 'abc'}")
    (variants / "abc/.dvc/tmp").mkdir(exist_ok=True)
    leave_lock(variants / "abc", dead)
    told = "\n".join(recover.recover(toy.root))
    assert f"process {dead} (dvc repro first) in {variants / 'abc'}" in told
    assert f"removed the half-made variant {variants / 'half.tmp'}" in told
    assert not (variants / "half.tmp").exists()
