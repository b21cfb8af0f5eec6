"""A Prefect server that goes away: the stages go on, in the end it knows all of it, and processes end."""

import json
import os
import socket
import subprocess
import sys
from types import SimpleNamespace

from outages import Proxy
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings
from processes import wait_for
from test_artifacts import manifest, shown_by
from test_pipeline import begin, names, task_runs
from test_sweep import MEASURE
from workspace import CHECKOUT

from flows.server import connection, programs
from flows.workspaces import workspace_lock

PAGE = f"pathlib.Path(out, 'manifest.json').write_text({json.dumps(manifest(samples=7))!r})"
"""Makes a stage one whose result Prefect shows."""


def test_stages_run_while_the_server_is_away_and_it_gets_their_states_later(
    toy, prefect_api, monkeypatch, tmp_path
):
    monkeypatch.setenv("FEWSTEP_TRACKING", "off")
    monkeypatch.setenv("PREFECT_CLIENT_MAX_RETRIES", "99")  # whoever waited for it by that would never end
    work = (toy.root / "work.py").read_text()
    bar = "write_progress(1, 2, 39)"
    (toy.root / "work.py").write_text(f"{work}\nif name == 'last':\n    {bar}\n    {PAGE}\n")
    toy.order("first", "meet go")
    with Proxy(prefect_api) as proxy:
        run, said = begin(toy, proxy.address, tmp_path / "said"), tmp_path / "said"
        wait_for((toy.root / "here-first").exists)
        note = workspace_lock.read_note(workspace_lock.lock_of(toy.root))
        proxy.stop()
        (toy.root / "here-go").touch()
        wait_for(lambda: run.poll() is not None or "the Prefect server is away" in said.read_text())
        proxy.start()
        assert run.wait() == 0, said.read_text()
    assert sorted(toy.began()) == sorted(toy.stages)  # once each
    assert "All stages are up to date: 4 completed." in said.read_text()
    assert "the progress of last is not shown" in said.read_text()
    with temporary_settings({PREFECT_API_URL: prefect_api}), get_client(sync_client=True) as client:
        assert names(task_runs(note["id"], len(toy.stages))) == dict.fromkeys(toy.stages, "Completed")
        assert shown_by(note["id"]).keys() == {"last"}
        assert client.read_flow_run(note["id"]).state.is_completed()


def test_a_server_that_is_gone_for_good_is_reported_and_the_stages_are_done(
    toy, prefect_api, monkeypatch, tmp_path
):
    monkeypatch.setenv("FEWSTEP_TRACKING", "off")
    work, said = toy.root / "work.py", tmp_path / "said"
    work.write_text(f"{work.read_text()}\n{PAGE}\n")  # so that the first stage waits for the server already
    toy.order("first", "meet go")
    with Proxy(prefect_api) as proxy:
        run = begin(toy, proxy.address, said, "pipeline.connection.RESTART = 2.0")
        wait_for((toy.root / "here-first").exists)
        proxy.stop()
        (toy.root / "here-go").touch()
        assert run.wait() == 1, said.read_text()
    assert sorted(toy.began()) == sorted(toy.stages)
    last = said.read_text().splitlines()[-1]
    assert last.startswith(f"the Prefect server at {proxy.address} went away and did not come back")
    assert "up to date" in toy.sh("dvc status")


WAIT = """
if name == "last":
    import yaml
    name = str(yaml.safe_load(open("params.yaml"))["last"]["width"])
    met(["go"])
    name = "last"
"""


def test_a_sweep_whose_server_is_gone_for_good_ends_with_its_table(toy, prefect_api, monkeypatch, tmp_path):
    monkeypatch.setenv("FEWSTEP_TRACKING", "off")
    work, said, yard = toy.root / "work.py", tmp_path / "said", tmp_path / "yard"
    yard.mkdir()
    toy.edit("work.py", "here-{", f"{yard}/here-{{")
    work.write_text(f"{work.read_text()}\n{WAIT}\n{MEASURE}")
    sweep = "sweep.run(Path.cwd(), SweepRequest(grid={'last.width': [7, 9]}))"
    with Proxy(prefect_api) as proxy:
        run = begin(toy, proxy.address, said, "pipeline.connection.RESTART = 2.0", sweep)
        wait_for(lambda: all((yard / f"here-{width}").exists() for width in (7, 9)))
        proxy.stop()
        (yard / "here-go").touch()
        assert run.wait() == 1, said.read_text()
    *_, summary, heads, seven, nine, _, last = said.read_text().splitlines()
    assert summary == "1 of 2 variants completed"
    assert heads.split() == ["variant", "settings", "state", "boss-4@4"]
    assert seven.split()[1:] == ["last.width=7", "Completed", "0.7"]
    assert nine.split()[1:] == ["last.width=9", "Unfinished", "-"]
    assert last.startswith(f"the Prefect server at {proxy.address} went away and did not come back")


ENDS = """
import os, pathlib, time
os.environ["PREFECT__FLOW_RUN_ID"] = "that which the worker names"
from prefect import flow
from prefect.events import emit_event
from prefect.runtime import flow_run
from flows.server import ending

def last_words(*_):
    pathlib.Path("ended").touch()
    while not pathlib.Path("silent").exists():
        time.sleep(0.05)
    emit_event("last", resource={"prefect.resource.id": "words"})

@flow(**ending.hooks())
def part():
    pass

@flow(on_completion=[last_words, *ending.hooks()["on_completion"]])
def whole():
    os.environ[ending.OWN] = flow_run.get_id()
    part()
    time.sleep(2)
    print("it goes on when its part has ended", flush=True)

ending.SECONDS = 1.0
whole()
"""


def test_a_run_that_has_ended_ends_its_process_though_the_server_takes_no_last_events(prefect_api, tmp_path):
    said = tmp_path / "said"
    with Proxy(prefect_api) as proxy, said.open("w") as out:
        run = subprocess.Popen(
            [sys.executable, "-c", ENDS],
            cwd=tmp_path,
            env=os.environ | {"PREFECT_API_URL": proxy.address, "PYTHONPATH": str(CHECKOUT)},
            stdout=out,
            stderr=out,
        )
        wait_for(lambda: run.poll() is not None or (tmp_path / "ended").exists())
        proxy.stop()
        with socket.create_server((programs.HOST, proxy.port)):  # it takes calls and answers none
            (tmp_path / "silent").touch()
            assert run.wait() == 0, said.read_text()
    assert "it goes on when its part has ended" in said.read_text()
    assert "the run ended 1 s ago; its process is ended" in said.read_text()


def test_a_server_that_is_gone_for_good_is_waited_for_once(monkeypatch):
    asked = []
    monkeypatch.setattr(connection, "give_up", lambda: asked.append("no more"))
    monkeypatch.setattr(connection, "RESTART", 1.5)
    monkeypatch.setattr(connection, "unreachable", lambda: asked.append(True) or ConnectionError())
    monkeypatch.setattr(connection, "get_run_logger", lambda: SimpleNamespace(warning=print))
    restart = connection.Restart()
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        restart.wait()
        assert len(asked) > 2
        assert asked[-1] == "no more"
        asked.clear()
        restart.wait()
    assert asked == [True, "no more"]
