import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Running
from processes import kill, wait_for

from fewstep.errors import UserError
from flows import recover
from flows.dvc import commands, lockfile, repo
from flows.dvc.failures import StageError
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
def test_locks_of_dead_processes_are_removed_and_work_continues(toy_that_ran, dead, reused):
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
def test_nothing_is_changed_while_a_process_runs_in_the_checkout(toy, dead, words):
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


def test_a_running_flow_is_named(toy):
    told = r"flow run calm-fox \(123, process \d+ on .*running"
    with (
        workspace_lock.held(workspace_lock.lock_of(toy.root), "calm-fox", "123"),
        pytest.raises(UserError, match=told),
    ):
        recover.recover(toy.root)


def test_a_flow_run_that_died_is_marked_crashed_and_its_note_removed(toy, prefect_api):
    lock = workspace_lock.lock_of(toy.root)
    with temporary_settings({PREFECT_API_URL: prefect_api}), get_client(sync_client=True) as client:
        run = client.create_flow_run(flow(lambda: None, name="fewstep"), state=Running())
        lock.parent.mkdir()
        note = {"name": "calm-fox", "id": str(run.id), "pid": 1, "host": "there"}
        workspace_lock.note_of(lock).write_text(json.dumps(note))
        (told,) = recover.recover(toy.root)
        assert told.startswith(
            f"removed the note of flow run calm-fox ({run.id}, process 1 on there), which died"
        )
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


def test_locks_of_git_are_removed_in_variants_and_left_to_the_user_in_the_checkout(toy):
    toy.sh("git clone -q . .fewstep/variants/abc")
    variant = toy.root / ".fewstep/variants/abc"
    for place in (toy.root, variant):
        (place / ".git/index.lock").touch()
    with workspace_lock.held(variant.with_suffix(".lock"), "calm-fox", "1"), pytest.raises(UserError):
        recover.recover(toy.root)
    assert (variant / ".git/index.lock").exists()
    assert recover.recover(toy.root) == [f"removed git's index.lock of a dead process in {variant}"]
    assert not (variant / ".git/index.lock").exists()
    assert (toy.root / ".git/index.lock").exists()


def cached_list(root):
    """Return the file in DVC's cache that lists the output of the first stage."""
    digest = lockfile.entry(root, "first")["outs"][0]["md5"]
    return root / ".dvc/cache/files/md5" / digest[:2] / digest[2:]


def cut(file, count):
    content = file.read_bytes()
    file.chmod(0o644)
    file.write_bytes(content[:count])


def become_folder(file):
    file.unlink()
    (file / "lost").mkdir(parents=True)


LOCK_DAMAGES = {
    "empty": lambda file: cut(file, 0),
    "cut": lambda file: cut(file, file.read_bytes().index(b"outs:") + 2),
    "zeros": lambda file: file.write_bytes(bytes(300)),
    "not text": lambda file: file.write_bytes(b"\xff" * 300),
    "a list": lambda file: file.write_text("- a"),
    "a folder": become_folder,
}


@pytest.mark.parametrize(
    ("damage", "committed"), [(damage, damage not in ("cut", "a folder")) for damage in LOCK_DAMAGES]
)
def test_a_damaged_lockfile_ends_in_one_message_whose_command_mends_it(toy_that_ran, damage, committed):
    root = toy_that_ran.root
    if committed:
        toy_that_ran.sh("git add dvc.lock && git commit -qm ran")
    before = lockfile.text(root)
    LOCK_DAMAGES[damage](root / "dvc.lock")
    with pytest.raises(UserError, match=r"dvc\.lock is damaged \(.*`fewstep recover`"):
        repo.read(root)
    (told,) = recover.recover(root)
    assert "put back that of the last commit" in told if committed else "looks for the results" in told
    assert (root / ".fewstep/dvc.lock.damaged").exists()
    assert recover.recover(root) == []
    toy_that_ran.sh("dvc repro -q")
    assert toy_that_ran.began() == []  # all was found
    assert yaml.safe_load(lockfile.text(root)) == yaml.safe_load(before)


def test_a_lockfile_that_was_cut_and_still_can_be_read_is_mended_by_dvc_alone(toy_that_ran):
    file = toy_that_ran.root / "dvc.lock"
    before = yaml.safe_load(file.read_text())
    cut(file, file.read_bytes().index(b"outs:"))  # no output, and no further stages
    assert recover.recover(toy_that_ran.root) == []
    toy_that_ran.sh("dvc repro -q")
    assert toy_that_ran.began() == []
    assert yaml.safe_load(file.read_text()) == before


def cached_content(root):
    """Return a file in DVC's cache that is part of an output."""
    return next((root / ".dvc/cache/files/md5").glob("*/*[!r]"))


@pytest.mark.parametrize(
    ("of", "damage"),
    [
        (cached_list, become_folder),
        (cached_list, lambda file: cut(file, 40)),
        (cached_content, lambda file: cut(file, 0)),
    ],
)
def test_damage_in_the_cache_is_removed_and_the_stages_fill_it_again(toy_that_ran, damage, of):
    root = toy_that_ran.root
    damage(file := of(root))
    if file.is_dir():
        with pytest.raises(
            StageError, match=rf"first: DVC can't .*{file} is a folder.*`fewstep recover`"
        ) as caught:
            commands.reproduce("first", root, lambda line: None, force=True)
        assert not caught.value.transient
    told = recover.recover(root)
    assert any(line.startswith(f"removed {file} from DVC's cache: it was ") for line in told)
    assert recover.recover(root) == []
    toy_that_ran.sh("dvc repro -q")
    assert file.is_file()
    assert not any(stage.changed for stage in repo.read(root).values())


@pytest.mark.parametrize("damage", [lambda file: cut(file, 0), become_folder])
def test_a_damaged_list_of_readers_is_explained_and_removed(toy_that_ran, dead, damage):
    root = toy_that_ran.root
    leave_lock(root, dead)
    damage(root / ".dvc/tmp/rwlock")
    toy_that_ran.edit("params.yaml", "rate: 0.1", "rate: 0.2")
    with pytest.raises(StageError, match=r"rwlock is damaged .*`fewstep recover`"):
        commands.reproduce("first", root, lambda line: None)
    assert len(recover.recover(root)) == 1
    assert commands.reproduce("first", root, lambda line: None) == "ran"
