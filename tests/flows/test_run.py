"""`fewstep run` and `fewstep plan`: what they say, and whether a flow or a server is begun for it."""

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from fewstep.errors import UserError
from flows import run as run_command
from flows import summary
from flows.planning.request import Choice, Request
from flows.workspaces import workspace_lock

EVALUATE = """
  evaluate:
    cmd: python work.py evaluate artifacts/evaluate
    deps: [artifacts/middle]
    outs: [artifacts/evaluate]
  beside:
    cmd: python work.py beside artifacts/beside
    deps: [artifacts/first]
    outs: [artifacts/beside]
"""


pytestmark = pytest.mark.usefixtures("toys_run_on_a_server")


def test_a_server_that_is_away_is_reported_at_once(toy, monkeypatch):
    monkeypatch.setattr(run_command, "pipeline", lambda *_, **__: pytest.fail("ran"))
    address = "http://me:secret@127.0.0.1:9/api"
    with temporary_settings({PREFECT_API_URL: address}), pytest.raises(UserError) as caught:
        run_command.run(toy.root, Request())
    told = str(caught.value)
    assert told.startswith("the Prefect server at http://127.0.0.1:9/api does not answer (ConnectError)")
    assert "fewstep ui" in told


def test_without_a_server_none_is_started_for_nothing(toy_that_ran, monkeypatch, capsys):
    monkeypatch.setattr(run_command, "pipeline", lambda *_, **__: pytest.fail("a flow run for nothing"))
    with temporary_settings({PREFECT_API_URL: None}):
        run_command.run(toy_that_ran.root, Request())
        run_command.run(toy_that_ran.root, Request(start_from="middle@left"))
        assert capsys.readouterr().out == "All stages are up to date.\nThe chosen stages are up to date.\n"
        with pytest.raises(UserError, match="did you mean 'middle@left'"):
            run_command.run(toy_that_ran.root, Request(only="middle@lift"))

        toy_that_ran.edit("params.yaml", "width: 1", "width: 9")
        assert not run_command.nothing_to_do(toy_that_ran.root, Request())
        toy_that_ran.edit("params.yaml", "width: 9", "width: 1")
        for asked in (Request(force=True), Request(overrides={"width": 3})):
            assert not run_command.nothing_to_do(toy_that_ran.root, asked)


@pytest.fixture
def evaluating(toy_that_ran, monkeypatch):
    """A project of which everything is up to date, with `evaluate` beside `last`; it tells its table."""
    with (toy_that_ran.root / "dvc.yaml").open("a") as stages:
        stages.write(EVALUATE)
    toy_that_ran.sh("dvc repro -q")
    monkeypatch.setattr(summary, "show", lambda folder: print(f"the table of {folder}"))
    return toy_that_ran


TABLE = "the table of {}/artifacts/evaluate\n"


def test_a_run_ends_with_the_table_of_results_if_it_evaluated(evaluating, capsys):
    table = TABLE.format(evaluating.root)
    for request, shown in (
        (Request(), True),
        (Request(only="evaluate,last"), True),
        (Request(start_from="last"), True),  # the results are still those of today's settings
        (Request(only="first"), False),
        (Request(dry_run=True), False),
    ):
        run_command.run(evaluating.root, request)
        assert (table in capsys.readouterr().out) == shown


@pytest.mark.parametrize("served", [True, False])
def test_a_run_of_chosen_stages_shows_no_table_of_earlier_settings(evaluating, prefect_api, capsys, served):
    evaluating.edit("params.yaml", "middle: {left: {width: 1}", "middle: {left: {width: 4}")
    with temporary_settings({PREFECT_API_URL: prefect_api if served else None}):
        for request in (Request(start_from="beside"), Request(only="first")):
            run_command.run(evaluating.root, request)
            told = capsys.readouterr().out
            assert told == f"The chosen stages are up to date{': 1 cached' if served else ''}.\n"
        run_command.run(evaluating.root, Request(start_from="middle@left"))
    assert capsys.readouterr().out.endswith(TABLE.format(evaluating.root))


def test_a_plan_tells_what_a_run_would_do_without_a_server(toy_that_ran):
    toy_that_ran.edit("params.yaml", "width: 3", "width: 4")
    with temporary_settings({PREFECT_API_URL: None}):
        told = run_command.plan(toy_that_ran.root, Choice()).splitlines()
        assert told[-2] == "last runs, unless DVC's cache has this very result"
        told = run_command.plan(toy_that_ran.root, Choice(overrides={"last.width": 3})).splitlines()
        assert told[-1] == "0 of 4 stages run: 0 s one after the other"
    assert toy_that_ran.began() == []


def test_a_second_run_names_the_first_before_dvc_is_asked(toy_that_ran, monkeypatch):
    monkeypatch.setattr(run_command, "pipeline", lambda *_, **__: pytest.fail("ran"))
    monkeypatch.setattr(run_command.repo, "read", lambda root: pytest.fail("asked"))
    with (
        temporary_settings({PREFECT_API_URL: None}),
        workspace_lock.held(workspace_lock.lock_of(toy_that_ran.root), "quick-fox", "1234"),
        pytest.raises(UserError, match=r"^flow run quick-fox \(1234, process .*\) uses this workspace; wait"),
    ):
        run_command.run(toy_that_ran.root, Request())
