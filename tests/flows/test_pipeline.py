import os
import re
import signal
import subprocess
import sys
from contextlib import nullcontext, suppress

import pytest
from chain.checkout import Checkout
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import TaskRunFilter, TaskRunFilterFlowRunId
from prefect.states import Cancelling
from processes import group, wait_for
from workspace import CHECKOUT

from fewstep.errors import UserError
from flows import pipeline, recover
from flows import run as run_command
from flows.planning import slots
from flows.planning.request import Choice, Request
from flows.system import notices
from flows.workspaces import workspace_lock
from stages.artifacts import manifests
from stages.settings import checks
from stages.tracking import tracking


@pytest.fixture(autouse=True)
def server(toys_run_on_a_server, monkeypatch):
    monkeypatch.setattr(pipeline.bring_up_to_date, "retry_delay_seconds", 0)


def run(toy):
    """Run the flow; return its state, and each stage's task run as the server knows it."""
    state = pipeline.pipeline(toy.root, return_state=True)
    return state, task_runs(state.state_details.flow_run_id, len(toy.stages))


def begin(toy, prefect_api, said=None, first="", command="run.run(Path.cwd(), Request())"):
    """Begin a command of flows, in a process group of its own; a file, if given, gets what it says.

    `first` is done before.
    """
    script = "\n".join(
        (
            "import os",
            "from pathlib import Path",
            "from flows import pipeline, run, sweep",
            "from flows.planning.request import Request, SweepRequest",
            "from stages.settings import checks",
            "checks.check = lambda params: None",
            first,
            f"os.chdir({str(toy.root)!r})",
            command,
        )
    )
    with said.open("w") if said else nullcontext(subprocess.PIPE) as out:
        return subprocess.Popen(
            [sys.executable, "-c", script],
            cwd=CHECKOUT,
            env=os.environ | {"PREFECT_API_URL": prefect_api},
            stdout=out,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )


def task_runs(flow_run, count):
    """Return the task runs of a flow run by name, as the server knows them."""
    with get_client(sync_client=True) as client:
        mine = TaskRunFilter(flow_run_id=TaskRunFilterFlowRunId(any_=[flow_run]))

        def all_told():  # the server hears of task runs through events, a little later
            runs = {run.name: run for run in client.read_task_runs(task_run_filter=mine)}
            final = [r.name for r in runs.values() if r.state.is_final() or r.state_name == "NotReady"]
            return runs if len(runs) == len(final) == count else None

        return wait_for(all_told, every=0.1)


def names(runs):
    return {name: run.state_name for name, run in runs.items()}


def test_stages_run_in_order_and_independent_ones_at_once_then_all_is_cached(toy, monkeypatch):
    toy.order("middle@left", "meet middle@right")  # each waits for the other, so they must overlap
    toy.order("middle@right", "meet middle@left")
    state, runs = run(toy)
    assert state.is_completed()
    assert state.message == "4 completed"
    assert names(runs) == dict.fromkeys(toy.stages, "Completed")
    pipelines = {line.split()[1] for line in (toy.root / "began").read_text().splitlines()}
    began = toy.began()
    assert (began[0], set(began[1:3]), began[3]) == ("first", {"middle@left", "middle@right"}, "last")

    assert len(pipelines) == 1

    monkeypatch.setattr(pipeline, "run_stages", lambda *_: pytest.fail("ran for nothing"))
    assert pipeline.pipeline(toy.root, return_state=True).message == "4 cached"
    assert toy.began() == []


def test_a_changed_setting_runs_its_stage_and_what_depends_on_it(toy_that_ran):
    toy_that_ran.edit("params.yaml", "width: 1", "width: 9")
    _, runs = run(toy_that_ran)
    assert names(runs) == {
        "first": "Cached",
        "middle@left": "Completed",
        "middle@right": "Cached",
        "last": "Completed",
    }
    assert runs["first"].state.message == "first: nothing changed"
    assert toy_that_ran.began() == ["middle@left", "last"]


AHEAD = """
import pathlib, time
pathlib.Path("here-ahead").touch()
try:
    time.sleep(600)
finally:
    pathlib.Path("here-end").touch()
"""


def test_a_free_slot_works_ahead_for_a_stage_that_waits(toy, monkeypatch):
    monkeypatch.setattr(slots, "able", lambda stage: stage == "last")
    (toy.root / "stages").mkdir()
    (toy.root / "stages/__init__.py").touch()
    (toy.root / "stages/last.py").write_text(AHEAD)
    toy.order("middle@left", "meet ahead")
    toy.order("last", "meet end")  # so its own run must end it
    state, runs = run(toy)
    assert state.is_completed()
    assert names(runs) == dict.fromkeys(toy.stages, "Completed")


def test_a_users_mistake_is_reported_and_not_retried_and_the_others_go_on(toy):
    toy.order("middle@left", "refuse")
    state, runs = run(toy)
    assert state.is_failed()
    assert runs["middle@left"].state.message == "middle@left: the setting is wrong;\nmend it"
    assert state.message.splitlines() == [
        "middle@left: the setting is wrong;",
        "mend it",
        "Failed: middle@left. Fix that, then continue from there:",
        "    fewstep run --start-from middle@left",
        "or, without Prefect:",
        "    dvc repro middle@left",
    ]
    assert runs["middle@left"].run_count == 1
    assert names(runs) == {
        "first": "Completed",
        "middle@left": "Failed",
        "middle@right": "Completed",
        "last": "NotReady",
    }


def test_a_forced_run_that_failed_is_continued_by_force(toy):
    toy.order("first", "refuse")
    state = pipeline.pipeline(toy.root, only="first", force=True, return_state=True)
    assert state.message.splitlines()[-3:] == [
        "    fewstep run --only first --force",
        "or, without Prefect:",
        "    dvc repro -f -s first",
    ]


def test_the_command_of_a_forced_run_that_failed_twice_runs_these_two_and_what_builds_on_them(toy_that_ran):
    for name in ("middle@left", "middle@right"):
        toy_that_ran.order(name, "refuse")
    state = pipeline.pipeline(toy_that_ran.root, force=True, return_state=True)
    assert "\n    fewstep run --start-from middle@left,middle@right --force\n" in state.message
    toy_that_ran.sh("rm orders/*; rm began")
    asked = {"start_from": "middle@left,middle@right", "force": True}
    assert pipeline.pipeline(toy_that_ran.root, **asked, return_state=True).message == "3 completed"
    assert sorted(toy_that_ran.began()) == ["last", "middle@left", "middle@right"]


def test_a_file_that_one_stage_would_miss_is_reported_before_any_runs(toy):
    toy.edit("params.yaml", "last: {width: 3}", "last: {width: 3, file: data/gone.pt}")
    told = r"last\.file 'data/gone\.pt' is not there"
    with pytest.raises(UserError, match=told):
        run_command.plan(toy.root, Choice())
    state = pipeline.pipeline(toy.root, return_state=True)
    assert re.search(told, state.message)
    assert toy.began() == []


def test_cached_stages_are_linked_to_the_runs_that_made_their_outputs(toy_that_ran, monkeypatch):
    linked = []
    monkeypatch.delenv("FEWSTEP_TRACKING")
    monkeypatch.setattr(tracking, "link_cached", lambda root, manifests: linked.extend(manifests))
    monkeypatch.setattr(tracking, "send", lambda root, seconds: "the tracker is down")
    monkeypatch.setattr(manifests, "read", lambda folder: {"fingerprint": folder.name})
    toy_that_ran.edit("params.yaml", "width: 3", "width: 4")
    state, _ = run(toy_that_ran)
    assert state.is_completed()  # whether or not the tracker is up
    assert state.message.endswith(" completed.\nthe tracker is down")
    assert sorted(manifest["fingerprint"] for manifest in linked) == ["first", "left", "right"]


def test_a_killed_stage_is_tried_again(toy):
    toy.order("first", "die-once")
    state, runs = run(toy)
    assert state.is_completed()
    assert runs["first"].run_count == 2
    assert toy.began()[:2] == ["first", "first"]


def test_settings_are_checked_before_anything_runs(toy, monkeypatch):
    def refuse(params):
        raise UserError("first.stpes is not a setting")

    monkeypatch.setattr(checks, "check", refuse)
    toy.edit("params.yaml", "rate: 0.1", "rate: 0.19")  # settings that no test has had checked before
    state = pipeline.pipeline(toy.root, return_state=True)
    assert (state.is_failed(), state.message) == (True, "first.stpes is not a setting")
    assert toy.began() == []


def test_ctrl_c_ends_the_stage_and_starts_no_second_try(toy, prefect_api):
    toy.order("first", "sleep")
    process = begin(toy, prefect_api)
    began = toy.root / "began"
    try:
        wait_for(lambda: began.exists() and began.read_text())
        os.killpg(process.pid, signal.SIGINT)
        said, _ = process.communicate(timeout=120)
        wait_for(lambda: not group(process.pid), seconds=60)  # nobody of the group is left
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode != 0
    assert toy.began() == ["first"], said


def test_a_start_by_force_leaves_what_is_above_and_beside_it(toy_that_ran):
    state = pipeline.pipeline(toy_that_ran.root, start_from="middle@left", force=True, return_state=True)
    assert state.message == "2 completed"
    assert toy_that_ran.began() == ["middle@left", "last"]


def test_a_request_that_fits_nothing_is_reported_and_posted_before_anything_runs(toy, monkeypatch):
    posted = []
    monkeypatch.setattr(notices, "send", lambda text: posted.append(text) or "it answers 403 Forbidden")
    state = pipeline.pipeline(toy.root, start_from="midle", return_state=True)
    assert state.is_failed()
    assert "there is no stage 'midle'; did you mean 'middle@" in state.message
    assert len(posted) == 1
    assert posted[0].endswith(state.message)
    assert toy.began() == []


def test_a_dry_run_tells_the_plan_and_runs_nothing(toy_that_ran):
    toy_that_ran.edit("params.yaml", "width: 3", "width: 4")
    state = pipeline.pipeline(toy_that_ran.root, dry_run=True, return_state=True)
    assert state.message.splitlines()[-2:] == [
        "last runs, unless DVC's cache has this very result",
        "1 of 4 stages run: 0 s one after the other, and 1 that no run here has timed",
    ]
    assert toy_that_ran.began() == []


def test_a_stage_whose_time_is_over_is_stopped_and_not_tried_again(toy, monkeypatch):
    toy.order("first", "sleep")
    monkeypatch.setenv("FEWSTEP_STAGE_TIMEOUT", "60,first=3")
    state, runs = run(toy)
    assert runs["first"].run_count == 1
    assert runs["first"].state.message.startswith("first took longer than the 3 s that FEWSTEP_STAGE_TIMEOUT")
    assert "fewstep run --start-from first" in state.message
    assert recover.recover(toy.root) == []


@pytest.mark.parametrize("how", ["in the UI", "SIGTERM"])
def test_a_cancelled_run_leaves_no_process_and_no_lock(toy, prefect_api, how):
    toy.order("first", "sleep")
    process = begin(toy, prefect_api)
    try:
        began = toy.root / "began"
        wait_for(lambda: began.exists() and began.read_text())
        note = workspace_lock.read_note(workspace_lock.lock_of(toy.root))
        assert note["pid"] == process.pid
        if how == "in the UI":
            with get_client(sync_client=True) as client:
                client.set_flow_run_state(note["id"], Cancelling())
        else:
            process.terminate()
        said, _ = process.communicate(timeout=120)
        assert list(recover.running_processes([toy.root])) == []
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode != 0
    assert toy.began() == ["first"], said
    assert recover.recover(toy.root) == []
    with get_client(sync_client=True) as client:
        state = client.read_flow_run(note["id"]).state
    assert state.is_cancelled() if how == "in the UI" else state.is_crashed()


WRONG = [
    ("FEWSTEP_BACKEND", "rya"),
    ("FEWSTEP_WORKERS", "x"),
    ("FEWSTEP_SHARDS", "s4://x"),
    ("FEWSTEP_PROCESSES", "0"),
    ("FEWSTEP_NODE_RANK", "1"),
    ("FEWSTEP_CHECKPOINT_SECONDS", "soon"),
    ("FEWSTEP_PROFILE", "x"),
    ("FEWSTEP_MICRO_BATCH", "x"),
]


@pytest.mark.parametrize(("variable", "value"), WRONG)
def test_a_variable_that_a_late_stage_would_refuse_is_refused_before_anything_begins(
    toy, monkeypatch, variable, value
):
    monkeypatch.setenv(variable, value)
    with pytest.raises(UserError, match=variable):
        run_command.run(toy.root, Request())
    state = pipeline.pipeline(toy.root, return_state=True)  # as a deployment does
    assert state.is_failed()
    assert variable in state.message
    assert toy.began() == []


def test_the_variables_of_stages_on_workers_are_those_of_the_workers(monkeypatch):
    monkeypatch.setenv("FEWSTEP_POOLS", "on")
    for variable, value in WRONG:
        monkeypatch.setenv(variable, value)
    pipeline.check_variables()
    monkeypatch.setenv("FEWSTEP_TRACKING", "yes")  # which the flow itself reads
    with pytest.raises(UserError, match="FEWSTEP_TRACKING"):
        pipeline.check_variables()


def test_the_real_chain_goes_through_prefect(checkout, prefect_api):
    """One student's setting is overridden: it and the evaluation run, all else comes from the cache."""
    overridden = "fewstep run --set distill.one-step.train.steps=7"
    said = checkout.sh(overridden, PREFECT_API_URL=prefect_api)
    assert "All stages are up to date: 10 cached, 2 completed." in said
    with get_client(sync_client=True) as client:
        (flow_run,) = client.read_flow_runs(sort="START_TIME_DESC", limit=1)
    runs = names(task_runs(flow_run.id, 12))
    assert runs.keys() == checkout.locked().keys()
    assert sorted(name for name in runs if runs[name] == "Completed") == ["distill@one-step", "evaluate"]
    assert set(runs.values()) == {"Completed", "Cached"}
    assert checkout.sh("git status --porcelain") == ""
    (variant,) = (checkout / ".fewstep/variants").glob("*/")
    assert Checkout(variant).repro().ran == []
    assert checkout.repro().ran == []


@pytest.mark.parametrize("command", ["run", "plan"])
def test_a_batch_that_processes_cannot_share_is_reported_before_any_stage_runs(
    checkout, prefect_api, command
):
    asked = f"fewstep {command} --set distill.one-step.train.batch=31"
    told = checkout.refused(asked, FEWSTEP_PROCESSES="2", PREFECT_API_URL=prefect_api)
    assert "distill.one-step.train.batch is 31; set it to a multiple of 2" in told
    assert "pretrain" not in told  # which would run as well if the checkout had not made it


def test_flows_and_their_checks_do_not_import_torch():
    modules = [f"flows.{name}" for name in ("deploy", "gc", "recover", "run", "sweep", "ui", "why", "worker")]
    check = "Variant.of(flows.CHECKOUT, {})"
    code = f"import sys, {', '.join(modules)}; from flows.workspaces.variant import Variant; {check}"
    ended = subprocess.run([sys.executable, "-c", f"{code}; sys.exit('torch' in sys.modules)"], cwd=CHECKOUT)
    assert ended.returncode == 0
