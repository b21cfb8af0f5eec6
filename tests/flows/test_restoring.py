"""What a plan promises to bring back is there: in DVC's cache, or in its remote."""

import shutil

import pytest
from dvc.data_cloud import DataCloud
from prefect.settings import PREFECT_API_URL, temporary_settings

from fewstep.errors import UserError
from flows import run
from flows.dvc import commands
from flows.planning.request import Choice
from stages.settings import checks

ALL_RUN = "4 of 4 stages run"
NONE_RUNS = "0 of 4 stages run"


@pytest.fixture(autouse=True)
def no_server(monkeypatch):
    monkeypatch.setattr(checks, "check", lambda params: None)  # the toy's are no real stages'
    with temporary_settings({PREFECT_API_URL: None}):
        yield


@pytest.fixture
def shared(toy_that_ran, tmp_path):
    """A project that has sent all to its remote, and has nothing here."""
    toy_that_ran.sh(f"dvc remote add -q -d store {tmp_path / 'store'} && dvc push -q")
    toy_that_ran.sh("rm -r .dvc/cache artifacts")
    return toy_that_ran


def plan(toy, **choice):
    return run.plan(toy.root, Choice(**choice))


def test_outputs_in_the_cache_are_restored(toy_that_ran):
    shutil.rmtree(toy_that_ran.root / "artifacts")
    assert NONE_RUNS in plan(toy_that_ran)
    assert list(plan(toy_that_ran, only="last").splitlines())[-2].startswith("last comes back from")


def test_without_the_cache_all_stages_run_and_choosing_one_is_refused(toy_that_ran):
    toy_that_ran.sh("rm -r .dvc/cache artifacts")
    assert ALL_RUN in plan(toy_that_ran)
    for choice in ({"only": "last"}, {"start_from": "last"}):
        with pytest.raises(UserError, match=r"^last needs what is not up to date: first, middle@left"):
            plan(toy_that_ran, **choice)


def test_a_folder_with_a_file_missing_in_the_cache_is_made_again(toy_that_ran):
    toy_that_ran.sh("rm -r artifacts && find .dvc/cache/files -type f ! -name '*.dir' -delete")
    assert ALL_RUN in plan(toy_that_ran)


def test_a_clone_runs_all_that_its_lock_file_knows(toy_that_ran, tmp_path):
    toy_that_ran.sh("git add dvc.lock && git commit -qm ran && git clone -q . ../clone")
    assert ALL_RUN in run.plan(tmp_path / "clone", Choice())


def test_outputs_in_the_remote_are_restored(shared):
    assert NONE_RUNS in plan(shared)
    assert commands.reproduce("first", shared.root, print) != "ran"
    assert (shared.root / "artifacts/first/params.yaml").exists()


def test_stages_whose_outputs_the_remote_lacks_too_run(shared, tmp_path):
    assert NONE_RUNS in plan(shared)  # DVC remembers what a remote had
    shared.sh(f"rm -r {tmp_path / 'store'} .dvc/cache")
    assert ALL_RUN in plan(shared)


def test_a_remote_is_not_asked_for_what_the_cache_has(toy_that_ran, tmp_path, monkeypatch):
    toy_that_ran.sh(f"dvc remote add -q -d store {tmp_path / 'store'} && rm -r artifacts")
    monkeypatch.setattr(DataCloud, "get_remote", None)
    assert NONE_RUNS in plan(toy_that_ran)


def test_a_remote_that_does_not_answer_is_named(shared, monkeypatch):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "someone")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "something")
    shared.sh("dvc remote add -q -f store s3://bucket/shared")
    shared.sh("dvc remote modify -q store endpointurl http://127.0.0.1:9")
    with pytest.raises(
        UserError, match=r"the DVC remote 'store' of .*toy cannot be reached: .*bucket/shared"
    ):
        plan(shared)
