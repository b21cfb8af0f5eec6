"""A Prefect server that goes away in mid-run: the stages go on, and in the end it knows all of it."""

from threading import Timer

import pytest
from outages import Road
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings
from processes import wait_for
from test_artifacts import artifacts, in_a_flow, logs, result  # noqa: F401
from test_pipeline import begin, names, task_runs

from flows import _artifacts, _holding, _server


@pytest.fixture(autouse=True)
def untracked(monkeypatch):
    monkeypatch.setenv("FEWSTEP_TRACKING", "off")


def test_stages_begin_and_end_while_the_server_is_away_and_it_is_told_later(toy, prefect_api, monkeypatch):
    monkeypatch.setenv("PREFECT_CLIENT_MAX_RETRIES", "99")  # no stage would wait in vain for the server
    toy.order("first", "meet go")
    with Road(prefect_api) as road:
        run = begin(toy, road.address)
        wait_for((toy.root / "here-first").exists)
        note = _holding.read_note(_holding.lock_of(toy.root))
        road.go_away()
        (toy.root / "here-go").touch()
        wait_for(lambda: run.poll() is not None or (toy.root / "artifacts/last/params.yaml").exists())
        road.come_back()
        said, _ = run.communicate()
    assert run.returncode == 0, said
    assert "All stages are up to date: 4 completed." in said
    with temporary_settings({PREFECT_API_URL: prefect_api}):
        assert names(task_runs(note["id"], len(toy.stages))) == dict.fromkeys(toy.stages, "Completed")
        with get_client(sync_client=True) as client:
            assert client.read_flow_run(note["id"]).state.is_completed()


def test_a_page_waits_for_a_server_that_is_restarted_and_a_bar_does_not(prefect_api, result, monkeypatch):  # noqa: F811
    with Road(prefect_api) as road, temporary_settings({PREFECT_API_URL: road.address}):

        def body():
            road.go_away()
            _artifacts.Progress("one")("one: step 1/2 (50 %), 0:39 left")
            Timer(1, road.come_back).start()
            _artifacts.show("one", result.parent, ("out",))

        run = in_a_flow(body)
        assert artifacts(run).keys() == {"one"}
        (told,) = wait_for(lambda: [line for line in logs(run) if "not shown" in line])
        assert told.startswith("the progress of one is not shown (ConnectError")


def test_a_server_that_is_gone_for_good_is_waited_for_once(monkeypatch):
    asked = []
    monkeypatch.setattr(_server, "RESTART", 1.5)
    monkeypatch.setattr(_server.time, "sleep", asked.append)
    restart = _server.Restart()
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        restart.wait()
        assert asked
        asked.clear()
        restart.wait()
    assert not asked
