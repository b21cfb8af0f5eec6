import os
import shutil
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
from filelock import FileLock
from processes import wait_for
from toy_project import Toy

from fewstep.errors import UserError
from flows import gc
from flows.workspaces import workspace_lock
from stages.artifacts.scratch import Scratch
from stages.process.locks import is_held
from stages.tracking import outboxes


@pytest.fixture(scope="module")
def template_littered(template_that_ran, tmp_path_factory):
    """A project with some garbage of each kind, and what resembles it but is not."""
    toy = Toy(tmp_path_factory.mktemp("littered") / "toy")
    shutil.copytree(template_that_ran.root, toy.root)
    toy.sh("git add -A && git commit -qm 'what main uses'")
    for before, now in ((3, 7), (7, 8)):
        toy.edit("params.yaml", f"last: {{width: {before}}}", f"last: {{width: {now}}}")
        toy.sh("dvc repro -q last")
    toy.began()
    for name in ("last.old", "last.new", "gone.x", "first.y"):
        (toy.root / ".fewstep/scratch" / name).mkdir(parents=True)
        (toy.root / ".fewstep/scratch" / name / "file").write_bytes(b"x" * 1500)
    (toy.root / ".fewstep/scratch/first.older").mkdir()
    os.utime(toy.root / ".fewstep/scratch/first.older", (0, 0))
    (toy.root / ".fewstep/scratch/.locks").mkdir()
    (toy.root / ".fewstep/entries").mkdir()
    for second, name in enumerate(("old.json", "old.safetensors", "killed.json.1.tmp", "began", "now.json")):
        (toy.root / ".fewstep/entries" / name).write_bytes(b"x" * 1000)
        os.utime(toy.root / ".fewstep/entries" / name, (second, second))
    for folder in ("artifacts/middle/gone", "artifacts/old/deep"):
        (toy.root / folder).mkdir(parents=True)
        (toy.root / folder / "file").write_text("x")
    return toy


@pytest.fixture
def littered(template_littered, tmp_path, monkeypatch):
    shutil.copytree(template_littered.root, tmp_path / "toy")
    # As the real stages would say: last goes on with last.new, the inputs of first are not known yet.
    monkeypatch.setattr(gc, "current_scratch", lambda: iter([("last", "last.new"), ("first", None)]))
    monkeypatch.chdir(tmp_path / "toy")
    return Toy(tmp_path / "toy")


def everything(root: Path) -> set[str]:
    inner = [path for folder in ("artifacts", ".fewstep") for path in (root / folder).rglob("*")]
    return {str(path.relative_to(root)) for path in inner if ".locks" not in path.parts}


def run(monkeypatch, *, yes=False, answer=None):
    monkeypatch.setattr("builtins.input", lambda _: answer)
    gc.run(Path.cwd(), yes)


def test_gc_lists_and_removes_nothing_without_a_confirmation(littered, monkeypatch, capsys):
    before = everything(littered.root)
    run(monkeypatch, answer="n")
    said = capsys.readouterr().out
    # The two files of the run with width 7; main's are kept though the workspace left them, and today's.
    assert "  2 files, " in said
    assert "  last.old, 1.5 kB" in said
    assert "  gone.x, 1.5 kB" in said
    assert "  first.older" in said  # it may be what first would go on with, but there is a newer one
    assert "  3 files, 3.0 kB" in said  # of entries
    assert "  artifacts/middle/gone, 1 B" in said
    assert "  artifacts/old, 1 B" in said
    assert not any(kept in said for kept in ("last.new", "first.y", "middle/left", ".locks"))
    assert everything(littered.root) == before


def test_gc_removes_what_it_lists_and_nothing_else(littered, monkeypatch, capsys):
    before = everything(littered.root)
    run(monkeypatch, yes=True)
    gone = {f".fewstep/scratch/{name}" for name in ("last.old", "gone.x", "first.older")}
    gone |= {"artifacts/middle/gone", "artifacts/old"}
    gone |= {f".fewstep/entries/{name}" for name in ("old.json", "old.safetensors", "killed.json.1.tmp")}
    assert everything(littered.root) == {
        path for path in before if not any(Path(path).is_relative_to(folder) for folder in gone)
    }
    littered.began()
    littered.sh("git stash -q && dvc repro -q")  # what main uses is still there
    assert littered.began() == []
    capsys.readouterr()


def test_without_a_terminal_nothing_is_removed(littered, monkeypatch):
    def nobody(_):
        raise EOFError

    before = everything(littered.root)
    monkeypatch.setattr("builtins.input", nobody)
    with pytest.raises(UserError, match=r"there is no terminal to confirm; use `fewstep gc --yes`"):
        gc.run(littered.root, yes=False)
    assert everything(littered.root) == before


def test_nothing_to_remove(toy_that_ran, monkeypatch, capsys):
    monkeypatch.setattr(gc, "current_scratch", lambda: iter([]))
    monkeypatch.chdir(toy_that_ran.root)
    run(monkeypatch)
    assert capsys.readouterr().out == "Nothing to remove.\n"


def test_results_of_experiments_are_kept(toy_that_ran):
    toy_that_ran.sh("git add -A && git commit -qm all && dvc exp run -q -S last.width=5")
    toy_that_ran.sh("git checkout -q . && dvc checkout -q")
    assert gc.unused_cache(toy_that_ran.root).items == {}
    toy_that_ran.sh("dvc exp remove -q -A")
    assert gc.unused_cache(toy_that_ran.root).items != {}


def test_entries_are_kept_while_no_evaluation_says_when_it_began(littered):
    assert gc.old_entries(littered.root).items != {}
    (littered.root / ".fewstep/entries/began").unlink()
    assert gc.old_entries(littered.root).items == {}


def test_shared_scratch_is_left_alone(littered, tmp_path, monkeypatch):
    shutil.move(littered.root / ".fewstep/scratch", tmp_path / "shared")
    monkeypatch.setenv("FEWSTEP_SCRATCH", str(tmp_path / "shared"))
    assert gc.old_scratch().items == {}


def test_a_shared_cache_is_left_alone(littered, tmp_path):
    assert gc.unused_cache(littered.root).items != {}
    littered.sh(f"mv .dvc/cache {tmp_path}/shared && dvc cache dir -q --local {tmp_path}/shared")
    assert gc.unused_cache(littered.root).items == {}


def test_gc_is_refused_while_scratch_is_in_use_and_keeps_it(littered):
    scratch = littered.root / ".fewstep/scratch/last.old"
    with FileLock(Scratch(scratch).lock_file):
        with pytest.raises(UserError, match="last is running"):
            gc.collect(littered.root)
        gc.remove_unless_in_use(scratch)
    assert scratch.exists()


def test_gc_is_refused_while_a_stage_works_in_shared_scratch(littered, tmp_path, monkeypatch):
    monkeypatch.setenv("FEWSTEP_SCRATCH", str(tmp_path / "shared"))
    (scratch := Scratch(tmp_path / "shared/last.new")).folder.mkdir(parents=True)
    with FileLock(scratch.lock_file), pytest.raises(UserError, match="last is running"):
        gc.collect(littered.root)


@pytest.mark.parametrize("lock", [".fewstep/flow.lock", ".fewstep/variants/abc.lock"])
def test_gc_is_refused_while_a_flow_is_between_two_stages(littered, lock):
    with (
        workspace_lock.held(littered.root / lock, "fewstep", "1234"),
        pytest.raises(UserError, match=r"flow run fewstep \(1234, .* is running"),
    ):
        gc.collect(littered.root)


def test_gc_is_refused_if_a_flow_begins_before_the_confirmation(littered, monkeypatch):
    (littered.root / ".fewstep/variants/abc").mkdir(parents=True)
    with ExitStack() as begun:

        def begin(_):
            begun.enter_context(workspace_lock.held(lock, "fewstep", "1234"))
            return "y"

        lock = littered.root / ".fewstep/variants/abc.lock"
        lock.touch()
        before = everything(littered.root)
        monkeypatch.setattr("builtins.input", begin)
        with pytest.raises(UserError, match=r"flow run fewstep \(1234, .* is running"):
            gc.run(littered.root, yes=False)
    assert everything(littered.root) == before


def test_a_link_goes_and_what_it_leads_to_stays(tmp_path):
    (tmp_path / "artifacts").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/file").write_text("x")
    (tmp_path / "artifacts/link").symlink_to(tmp_path / "elsewhere")
    garbage = gc.old_artifacts(tmp_path, [])
    assert garbage.items == {"artifacts/link": [tmp_path / "artifacts/link"]}
    assert gc.freed(garbage.items["artifacts/link"]) == 0
    garbage.remove()
    assert not (tmp_path / "artifacts/link").is_symlink()
    assert (tmp_path / "elsewhere/file").exists()


def test_what_shares_a_file_with_another_frees_nothing(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").write_bytes(b"x" * 100)
    assert gc.freed([tmp_path / "a"]) == 100
    (tmp_path / "b").hardlink_to(tmp_path / "a" / "file")
    assert gc.freed([tmp_path / "a"]) == 0
    assert gc.freed([tmp_path / "a", tmp_path / "b"]) == 100


@pytest.mark.parametrize(("count", "text"), [(1, "1 B"), (1500, "1.5 kB"), (2e9, "2.0 GB"), (3e12, "3.0 TB")])
def test_sizes_are_readable(count, text):
    assert gc.readable(count) == text


def test_failed_and_interrupted_runs_leave_mlflow_and_others_stay(tmp_path, monkeypatch):
    from mlflow import MlflowClient

    root = tmp_path / "50%20x" / "a?b"  # no plain text in an address
    (root / ".fewstep").mkdir(parents=True)
    client = MlflowClient(outboxes.database(root))

    def make(name, status, parent=None):
        tags = {"mlflow.parentRunId": parent.info.run_id} if parent else {}
        run = client.create_run("0", run_name=name, tags=tags)
        client.set_terminated(run.info.run_id, status)
        return run

    mixed, hopeless = make("mixed", "FAILED"), make("hopeless", "FAILED")
    make("good", "FINISHED", mixed), make("bad", "FAILED", mixed), make("killed", "KILLED", hopeless)
    kind = gc.failed_runs(root)
    assert set(kind.items) == {"bad (failed)", "killed (killed)", "hopeless (failed)"}
    kind.remove()
    assert {run.info.run_name for run in client.search_runs(["0"])} == {"mixed", "good"}
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://shared.example")
    assert gc.failed_runs(root).items == {}


def test_gc_is_refused_while_a_stage_runs(toy_that_ran):
    toy_that_ran.edit("params.yaml", "width: 3", "width: 4")
    toy_that_ran.order("last", "sleep")
    dvc = subprocess.Popen(
        [sys.executable, "-m", "dvc", "repro", "-q"], cwd=toy_that_ran.root, start_new_session=True
    )
    try:
        wait_for((toy_that_ran.root / "began").exists)
        with pytest.raises(UserError, match="artifacts/last"):
            gc.collect(toy_that_ran.root)
    finally:
        os.killpg(dvc.pid, signal.SIGKILL)
        dvc.wait()


def test_workspaces_of_variants_go_unless_a_flow_has_begun_to_use_one(tmp_path, capsys):
    folder = tmp_path / ".fewstep/variants"
    for name in ("done", "busy"):
        (folder / name).mkdir(parents=True)
        (folder / f"{name}.lock").touch()
    kind = gc.variants(tmp_path)
    assert list(kind.items) == [".fewstep/variants/busy", ".fewstep/variants/done"]
    with workspace_lock.held(folder / "busy.lock", "calm-fox", "1234"):
        kind.remove()
        assert sorted(path.name for path in folder.iterdir()) == ["busy", "busy.json", "busy.lock"]
    told = capsys.readouterr().out
    assert told.startswith(f"{folder / 'busy'} stays: flow run calm-fox (1234, ")
    kind.remove()
    assert list(folder.iterdir()) == []


def test_no_flow_begins_in_a_workspace_while_it_is_removed(tmp_path, monkeypatch):
    folder = tmp_path / ".fewstep/variants/abc"
    folder.mkdir(parents=True)
    held = []
    monkeypatch.setattr(gc, "remove", lambda it: held.append(is_held(it.with_suffix(".lock"))))
    gc.remove_variant(folder)
    assert held == [True]
