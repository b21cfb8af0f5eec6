import re

import pytest

from fewstep.errors import UserError
from flows.dvc import commands, repo
from flows.dvc.failures import StageError, written


def reproduce(toy, stage, **options):
    lines = []
    return commands.reproduce(stage, toy.root, lines.append, **options), lines


def test_stages_come_in_dependency_order_with_what_they_wait_for(toy):
    stages = repo.read(toy.root)
    assert list(stages) == ["first", "middle@left", "middle@right", "last"]
    assert stages["first"].upstream == ()
    assert stages["middle@left"].upstream == ("first",)
    assert stages["last"].upstream == ("middle@left", "middle@right")
    assert stages["last"].inputs == ("artifacts/middle",)
    assert stages["last"].outputs == ("artifacts/last",)


def test_stages_that_wait_for_the_same_come_in_the_order_of_the_settings(toy):
    params = toy.root / "params.yaml"
    left, right = "left: {width: 1}", "right: {width: 2}"
    params.write_text(params.read_text().replace(f"{left}, {right}", f"{right}, {left}"))
    assert list(repo.read(toy.root)) == ["first", "middle@right", "middle@left", "last"]


def test_a_stage_runs_then_is_unchanged_then_comes_from_the_run_cache(toy):
    outcome, lines = reproduce(toy, "first")
    assert (outcome, toy.began()) == ("ran", ["first"])
    assert "first: at work" in lines
    assert not any("git add" in line for line in lines)  # DVC's hints are not the stage's business
    assert reproduce(toy, "first")[0] == "unchanged"
    toy.edit("params.yaml", "steps: 5", "steps: 6")
    assert reproduce(toy, "first")[0] == "ran"
    toy.began()
    toy.edit("params.yaml", "steps: 6", "steps: 5")
    assert (reproduce(toy, "first")[0], toy.began()) == ("cached", [])


def test_a_message_of_a_stage_is_passed_on_unchanged_and_not_retried(toy):
    toy.order("first", "refuse")
    with pytest.raises(StageError) as caught:
        reproduce(toy, "first")
    assert str(caught.value) == "first: the setting is wrong;\nmend it"
    assert not caught.value.transient


def test_a_stage_that_writes_no_outcome_is_reported_by_its_exit_status_and_last_lines(toy):
    toy.order("first", "fail")
    with pytest.raises(StageError) as caught:
        reproduce(toy, "first")
    first, *_, last = str(caught.value).splitlines()
    assert (first, last) == ("first ended with exit status 1", "it does not work")
    assert not caught.value.transient


@pytest.mark.parametrize("shell", ["/bin/sh", "/bin/bash"])
@pytest.mark.parametrize(("how", "told"), [("crash", "RuntimeError: a bug$"), ("die-once", "by signal 9$")])
def test_a_crash_or_a_kill_is_reported_and_may_be_tried_again(toy, monkeypatch, shell, how, told):
    monkeypatch.setenv("SHELL", shell)  # DVC runs commands through it; some become the command, some wait
    toy.order("first", how)
    with pytest.raises(StageError) as caught:
        reproduce(toy, "first")
    assert re.search(told, str(caught.value), re.MULTILINE)
    assert caught.value.transient


def test_a_failure_of_dvc_itself_is_reported_in_its_words(toy):
    with pytest.raises(StageError, match=r"No such file.*artifacts/first"):
        reproduce(toy, "middle@left")  # its input was never made


def test_the_stage_runs_with_this_interpreter(toy, monkeypatch):
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    toy.edit("work.py", "VERSION = 1", "VERSION = 1\nimport dvc")  # which the system's python lacks
    assert reproduce(toy, "first")[0] == "ran"


def test_a_remote_is_asked_for_results_made_elsewhere(toy, tmp_path):
    toy.sh(f"dvc remote add -d store {tmp_path / 'store'}")
    reproduce(toy, "first")
    toy.sh("dvc push -q --run-cache")
    toy.sh("rm -rf .dvc/cache artifacts dvc.lock")
    toy.began()
    outcome, _ = reproduce(toy, "first")
    assert (outcome, toy.began()) == ("cached", [])
    assert (toy.root / "artifacts/first/params.yaml").exists()


@pytest.mark.parametrize(("file", "text"), [("dvc.yaml", "stages: ["), ("params.yaml", "a: [")])
def test_unreadable_files_are_a_users_mistake(toy, file, text):
    (toy.root / file).write_text(text)
    with pytest.raises(UserError, match=r"dvc.yaml"):
        repo.read(toy.root)


def test_a_folder_without_dvc_is_a_users_mistake(tmp_path):
    with pytest.raises(UserError, match=r"not a DVC repository|not inside of a DVC"):
        repo.read(tmp_path)


@pytest.mark.parametrize(
    ("text", "found"), [(None, None), ("", None), ('{"outcome": "r', None), ('{"a": 1}', {"a": 1})]
)
def test_an_outcome_that_was_not_written_to_the_end_is_none(tmp_path, text, found):
    if text is not None:
        (tmp_path / "told.json").write_text(text)
    assert written(tmp_path / "told.json") == found
