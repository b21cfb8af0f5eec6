import os
import signal
import socket
import subprocess
import sys

import httpx
import pytest
from processes import alive, below, wait_for
from workspace import CHECKOUT

from fewstep.errors import UserError
from flows import ui
from flows.server import programs


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_both_pages_come_up_before_any_run_and_nothing_is_left_behind(tmp_path, end):
    process = subprocess.Popen(
        [sys.executable, "-c", "from pathlib import Path; from flows import ui; ui.serve(Path.cwd())"],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if not name.endswith("_AUTH_STRING")}
        | {"PYTHONPATH": str(CHECKOUT), "PREFECT_HOME": str(tmp_path / "prefect")},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        lines = [process.stdout.readline() for _ in range(3)]
        addresses = {line.split()[0]: line.split()[1] for line in lines[:2]}
        kept = tmp_path / ".fewstep/prefect-login"
        addresses["Prefect"], entrance, secret = addresses["Prefect"].partition("/enter#")
        assert entrance + secret == f"/enter#{kept.read_text().strip()}"
        assert kept.stat().st_mode & 0o777 == 0o600
        use = f"export PREFECT_API_URL={addresses['Prefect']}/api PREFECT_API_AUTH_STRING=$(cat {kept})"
        assert use in lines[1]
        assert "Ctrl-C" in lines[2]
        for name in ("MLflow", "Prefect"):
            assert name in httpx.get(addresses[name], timeout=60, follow_redirects=True).text
        settings = httpx.get(f"{addresses['Prefect']}/ui-settings", timeout=60).json()
        assert settings["api_url"] == "/api"  # of its own server, on whatever port that is
        asked = f"{addresses['Prefect']}/api/work_pools/filter"
        assert httpx.post(asked, json={}, timeout=60).status_code == httpx.codes.UNAUTHORIZED
        told = tuple(secret.split(":"))
        assert httpx.post(asked, json={}, auth=told, timeout=60).status_code == httpx.codes.OK
        create = f"{addresses['MLflow']}/api/2.0/mlflow/experiments/create"
        for kind in ("text/plain", "application/json"):
            page = {"Origin": "https://evil.example", "Content-Type": kind}
            refused = httpx.post(create, content='{"name": "evil"}', headers=page, timeout=60)
            assert refused.status_code == httpx.codes.FORBIDDEN
        for name in ("MLflow", "Prefect"):
            forged = {"Host": "evil.example"}
            assert httpx.get(addresses[name], headers=forged, timeout=60).is_client_error
        descendants = below(process.pid)
        assert len(descendants) >= 2
        assert (tmp_path / ".fewstep/mlflow.db").exists()  # the store that the server was told of
    finally:
        process.send_signal(end if process.poll() is None else 0)
    assert process.wait(120) == (0 if end == signal.SIGTERM else -end)
    wait_for(lambda: not any(map(alive, descendants)), seconds=60)


def test_servers_that_run_elsewhere_are_named_and_none_is_started(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracker.example")
    monkeypatch.setenv("PREFECT_API_URL", "https://flows.example/api")
    monkeypatch.setattr(programs, "start", lambda *_: pytest.fail("started a server"))
    monkeypatch.setattr(ui, "ENDS", ())
    ui.serve(tmp_path)
    assert capsys.readouterr().out.split() == [
        *("MLflow", "http://tracker.example", "(from", "MLFLOW_TRACKING_URI)"),
        *("Prefect", "https://flows.example/api", "(from", "PREFECT_API_URL)"),
    ]


def test_passwords_are_not_on_the_screen(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:hunter2@tracker.example/base")
    monkeypatch.setenv("PREFECT_API_URL", "https://user:hunt@er2@flows.example/api")
    monkeypatch.setattr(ui, "ENDS", ())
    ui.serve(tmp_path)
    said = capsys.readouterr().out
    assert "http://tracker.example/base " in said
    assert "https://flows.example/api " in said
    assert "hunt" not in said


def test_passwords_are_not_in_the_list_of_processes(tmp_path, monkeypatch):
    store = "postgresql://user:hunter2@db.example/mlflow"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    mlflow = programs.mlflow(tmp_path)
    started = {}
    monkeypatch.setattr(
        programs.subprocess, "Popen", lambda command, env, **_: started.update(c=command, e=env)
    )
    programs.start(mlflow, 1, tmp_path / "log")
    assert not [word for word in started["c"] if "hunter2" in word]
    assert started["e"]["MLFLOW_BACKEND_STORE_URI"] == store


def test_passwords_are_not_in_the_end_of_a_log(tmp_path):
    told = b"caf\xe9: cannot connect to postgresql://user:hunter2@db.example/mlflow"  # not in UTF-8
    (log := tmp_path / "log").write_bytes(told)
    broken = programs.Server(name="Broken", elsewhere="", port=1, arguments=(), health="/")
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    with pytest.raises(UserError, match=r"to postgresql://db\.example/mlflow"):
        programs.wait_until_ready(broken, 1, log, ended)


def test_a_port_in_use_is_passed_over():
    with socket.create_server((programs.HOST, 0)) as taken:
        port = taken.getsockname()[1]
        assert port < programs.free_port(port) < port + 100


def test_a_server_that_ends_at_once_is_reported_with_the_end_of_its_log(tmp_path):
    broken = programs.Server(
        name="Broken", elsewhere="", port=1, arguments=("flows.no_such_module",), health="/"
    )
    log = tmp_path / "log"
    process = programs.start(broken, 1, log)
    with pytest.raises(UserError, match=r"Broken did not start(.|\n)*no_such_module"):
        programs.wait_until_ready(broken, 1, log, process)
    programs.stop(process)


def test_a_server_that_ignores_sigterm_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(programs, "SECONDS_TO_STOP", 0.5)
    code = "import signal as s, time; s.signal(s.SIGTERM, s.SIG_IGN); print(1, flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=True)
    process.stdout.readline()
    programs.stop(process)
    assert process.returncode == -signal.SIGKILL
