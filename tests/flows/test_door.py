"""Requests of other origins, of forged host names and without the login, and what no caller may choose."""

import json
import os
import stat
from pathlib import Path

import httpx
import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.exceptions import PrefectHTTPStatusError
from prefect.flows import Flow
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings
from workspace import CHECKOUT

from fewstep.errors import UserError
from fewstep.lazy import lazy_imports
from flows import stage, worker
from flows.server import connection, deployed, login, own, programs
from flows.workers import pools

with lazy_imports():  # takes seconds, also of the processes that run other tests
    from flows.server import door

EVIL = "https://evil.example"
JOB = json.loads((CHECKOUT / pools.JOB).read_text())


@pytest.fixture
def server(prefect_api):
    with temporary_settings({PREFECT_API_URL: prefect_api}), get_client(sync_client=True) as client:
        yield client


@pytest.fixture
def asked(server):
    """A deployment of which a run can be started, and the requests that start it."""
    pool = server.create_work_pool(
        WorkPoolCreate(name="door", type="process", base_job_template=JOB), overwrite=True
    )
    made = server.create_deployment(
        server.create_flow(Flow(lambda: None, name="guarded")), "guarded", work_pool_name=pool.name
    )
    yield f"/deployments/{made}/create_flow_run"
    server.delete_deployment(made)


def ask(prefect_api: str, path: str, *, known: bool = False, method: str = "POST", **headers: str):
    """Ask the server for a flow run as a browser does; `known`, with the login."""
    auth = tuple(login.login(Path()).split(":")) if known else None
    return httpx.request(
        method, f"{prefect_api}{path}", content="{}", headers=headers, auth=auth, timeout=60, trust_env=False
    )


def runs(server) -> int:
    return len(server.read_flow_runs())


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": EVIL, "Content-Type": "text/plain"},  # a simple request, which no browser asks about
        {"Origin": EVIL, "Content-Type": "application/json"},
        {"Origin": "null", "Content-Type": "text/plain"},  # of a sandboxed frame
        {"Origin": "http://localhost:3000", "Content-Type": "application/json"},
        {"Host": "evil.example", "Content-Type": "application/json"},  # a name that leads to this machine
        {"Host": "evil.example:4200", "Origin": "http://evil.example:4200"},
        {"Host": "127.0.0.1.evil.example", "Content-Type": "application/json"},
    ],
)
def test_requests_of_another_origin_or_host_start_nothing_even_with_the_login(
    server, prefect_api, asked, headers, known
):
    before = runs(server)
    answer = ask(prefect_api, asked, known=known, **headers)
    assert answer.status_code in (httpx.codes.BAD_REQUEST, httpx.codes.FORBIDDEN)
    assert "access-control-allow-origin" not in answer.headers
    assert runs(server) == before


def test_a_preflight_of_another_origin_is_refused(prefect_api, asked):
    preflight = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
    answer = ask(prefect_api, asked, method="OPTIONS", Origin=EVIL, **preflight)
    assert answer.status_code == httpx.codes.FORBIDDEN
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_a_request_without_the_login_starts_nothing_and_one_with_it_does(server, prefect_api, asked):
    before = runs(server)
    assert ask(prefect_api, asked).status_code == httpx.codes.UNAUTHORIZED
    assert runs(server) == before
    own_page = {"Origin": prefect_api.removesuffix("/api"), "Content-Type": "application/json"}
    assert ask(prefect_api, asked, known=True, **own_page).is_success
    assert runs(server) == before + 1


@pytest.mark.parametrize(
    "variables",
    [{"command": "touch x"}, {"env": {"PATH": "/evil"}}, {"working_dir": "/evil"}, {"anything": "else"}],
)
def test_a_caller_chooses_no_command_and_no_environment(server, asked, variables):
    before = runs(server)
    with pytest.raises(PrefectHTTPStatusError, match=r"422|409"):
        server.create_flow_run_from_deployment(asked.split("/")[2], job_variables=variables)
    assert runs(server) == before


def test_a_worker_uses_nothing_that_a_caller_has_set():
    text = json.dumps(JOB["job_configuration"])
    assert "{{" not in text
    assert not {"command", "env", "working_dir"} & JOB["job_configuration"].keys()


def test_a_worker_refuses_a_pool_in_which_a_caller_chooses_the_command(server, prefect_api, monkeypatch):
    monkeypatch.setenv("PREFECT_API_URL", prefect_api)
    monkeypatch.setattr(os, "execve", lambda *_: pytest.fail("started"))
    server.create_work_pool(WorkPoolCreate(name="open", type="process"))  # Prefect's own job
    with pytest.raises(UserError, match=r"pool open .* choose its command.*`fewstep deploy`"):
        worker.become("open")
    monkeypatch.setenv(login.CLIENT, "fewstep:wrong")
    with pytest.raises(UserError, match="answers 401; PREFECT_API_AUTH_STRING is missing or wrong"):
        worker.become("open")
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    with pytest.raises(UserError, match=r"does not answer \(ConnectError\)"):
        worker.become("open")


def test_a_worker_makes_a_pool_that_is_closed(prefect_api, monkeypatch):
    became = []
    monkeypatch.setenv("PREFECT_API_URL", prefect_api)
    monkeypatch.setattr(os, "chdir", lambda _: None)
    monkeypatch.setattr(os, "execve", lambda program, command, environment: became.append(command))
    worker.become("new")
    job = became[0][became[0].index("--base-job-template") + 1]
    assert json.loads(Path(job).read_text()) == JOB


def test_without_the_right_login_a_run_says_which_variable_to_set(prefect_api):
    wrong = {PREFECT_API_URL: prefect_api, PREFECT_API_AUTH_STRING: "fewstep:wrong"}
    refused = pytest.raises(UserError, match="refuses this login; export PREFECT_API_AUTH_STRING")
    with temporary_settings(wrong), refused:
        connection.check()


def test_the_pages_ask_their_own_server_and_the_printed_address_logs_a_browser_in(prefect_api):
    page = httpx.get(f"{prefect_api.removesuffix('/api')}/enter/runs", timeout=60)
    assert page.is_success
    assert "prefect-password" in page.text
    assert login.login(Path()) not in page.text


@pytest.mark.parametrize("names", ["", "prefect,servers.example"])
def test_the_server_answers_to_the_names_it_was_given(monkeypatch, names):
    monkeypatch.setenv(door.NAMES, names)
    assert door.names() == ["localhost", "127.0.0.1", *filter(None, names.split(","))]


def test_no_server_starts_without_a_login(monkeypatch):
    monkeypatch.delenv(login.SERVER)
    with pytest.raises(UserError, match=r"PREFECT_SERVER_API_AUTH_STRING is not set.*set it to name:secret"):
        door.app()


def test_a_login_is_made_once_and_is_its_owners_alone(tmp_path, monkeypatch):
    monkeypatch.delenv(login.SERVER)
    first = login.login(tmp_path)
    assert login.login(tmp_path) == first
    assert login.login(tmp_path / "..") != first
    kept = login.file_of(tmp_path)
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert sorted(kept.parent.iterdir()) == [kept]
    login.make(kept)  # by a start that was slower
    assert login.login(tmp_path) == first
    kept.chmod(0o644)
    with pytest.raises(UserError, match=r"others can read .*prefect-login"):
        login.login(tmp_path)


def test_a_run_without_a_server_has_one_of_the_same_kind(tmp_path, monkeypatch):
    """What is started is the program that `fewstep ui` starts, which the tests above ask."""
    started = []
    monkeypatch.setattr(programs, "start", lambda server, port, log: started.append(server))
    monkeypatch.setattr(programs, "wait_until_ready", lambda *_: None)
    monkeypatch.setattr(own.atexit, "register", lambda *_: None)
    with temporary_settings({PREFECT_API_URL: None, PREFECT_API_AUTH_STRING: None}), own.server(tmp_path):
        assert PREFECT_API_URL.value().startswith("http://127.0.0.1:")
        assert PREFECT_API_AUTH_STRING.value() == login.login(tmp_path)
    assert started == [programs.prefect(tmp_path)]


def test_prefect_starts_no_server_of_its_own():
    assert os.environ["PREFECT_SERVER_ALLOW_EPHEMERAL_MODE"] == "false"


@pytest.mark.parametrize("names", [{"PATH": "/evil"}, {"LD_PRELOAD": "x", "FEWSTEP_PIPELINE": "p"}])
def test_a_worker_takes_no_variables_of_a_caller(names):
    with pytest.raises(UserError, match="takes FEWSTEP_PIPELINE and MLFLOW_EXPERIMENT_NAME"):
        stage.refuse_other_variables(names)
    stage.refuse_other_variables({"FEWSTEP_PIPELINE": "p", "MLFLOW_EXPERIMENT_NAME": "e"})


def test_a_deployment_runs_no_other_folder(tmp_path, monkeypatch):
    deployed.check_folder(tmp_path)  # as `fewstep run` does
    monkeypatch.setenv("PREFECT__RUNTIME__DEPLOYMENT__ID", "some")
    monkeypatch.setattr(deployed, "CHECKOUT", Path().resolve())
    checkout = Path().resolve()
    deployed.check_folder(checkout)
    with pytest.raises(UserError, match="run in its checkout, not in"):
        deployed.check_folder(tmp_path)
    monkeypatch.chdir(tmp_path)  # as DVC does in another thread
    deployed.check_folder(checkout)
