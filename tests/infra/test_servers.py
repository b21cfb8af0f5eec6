"""The commands of infra/compose.yaml run here as processes, with a real PostgreSQL and an S3 server."""

import json
import os
import subprocess
import sys
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import postgres
import pytest
from outages import free_port
from processes import below

from flows.server import programs

FLOW = """
import sys
from pathlib import Path

from prefect import flow
from prefect.deployments import run_deployment


@flow
def write(place: str):
    Path(place).write_text("a worker was here")


if __name__ == "__main__":
    there = write.from_source(source=str(Path.cwd()), entrypoint="tiny.py:write")
    name = there.deploy(name="there", work_pool_name="cpu", print_next_steps=False)
    ended = run_deployment("write/there", parameters={"place": sys.argv[1]}, timeout=90, poll_interval=0.5)
    assert ended.state.is_completed(), ended.state
"""
TRACKED = """
import sys

import mlflow

with mlflow.start_run() as run:
    mlflow.log_metric("loss", 0.25)
    mlflow.log_text("seen by all", "note.txt")
there = mlflow.get_run(run.info.run_id)
assert there.data.metrics == {"loss": 0.25}
assert mlflow.artifacts.load_text(f"{there.info.artifact_uri}/note.txt") == "seen by all"
print(there.info.artifact_uri)
"""


def run_as_worker(team, folder: Path, code: str, *arguments: str, **more: str | None) -> str:
    """Run Python with what the environment of a worker says, and return what it printed."""
    (folder / "tiny.py").write_text(code)
    environment = os.environ | team.environment("cpu-worker") | {"PREFECT_HOME": str(folder / "home")} | more
    environment = {name: value for name, value in environment.items() if value is not None}
    ended = subprocess.run(
        [sys.executable, "tiny.py", *arguments], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def answer(address: str, **headers: str) -> int:
    try:
        return urlopen(Request(address, headers=headers), timeout=30).status
    except HTTPError as error:
        return error.code


def test_a_worker_runs_a_flow_that_the_server_keeps_in_postgresql(team, servers, database, tmp_path):
    assert not team.healthy("cpu-worker")
    hurry = {"PREFECT_WORKER_WEBSERVER_PORT": str(free_port()), "PREFECT_WORKER_QUERY_SECONDS": "1"}
    with team.running("cpu-worker", **hurry):
        run_as_worker(team, tmp_path, FLOW, str(tmp_path / "place"))
    assert (tmp_path / "place").read_text() == "a worker was here"
    runs = "select state_type from flow_run join flow on flow.id = flow_id where flow.name = 'write'"
    assert database.run("psql", "--dbname=prefect", "--tuples-only", f"--command={runs}").split() == [
        "COMPLETED"
    ]


def test_prefect_refuses_requests_without_the_login(team, servers):
    server = f"http://{programs.HOST}:{team.values['PREFECT_PORT']}"
    assert answer(f"{server}/api/work_pools/filter") == 401
    assert answer(f"{server}/api/health") == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "prefect:4200"}, 200),  # the name between the containers
        ({"Host": "elsewhere.example"}, 400),
        ({"Origin": "https://elsewhere.example"}, 403),
    ],
)
def test_prefect_answers_under_the_names_it_was_given_and_to_its_own_pages(team, servers, headers, status):
    assert answer(f"http://{programs.HOST}:{team.values['PREFECT_PORT']}/api/health", **headers) == status


def test_the_page_of_prefect_asks_the_address_that_it_was_opened_at(team, servers):
    settings = json.load(
        urlopen(f"http://{programs.HOST}:{team.values['PREFECT_PORT']}/ui-settings", timeout=30)
    )
    assert settings["api_url"] == "/api"
    assert settings["auth"] == "BASIC"


def test_an_artifact_goes_to_the_bucket_without_the_client_having_a_key(team, servers, database, tmp_path):
    secrets = dict.fromkeys(name for name in team.environment("cpu-worker") if name.startswith("AWS_"))
    uri = run_as_worker(team, tmp_path, TRACKED, **secrets).split()[-1]
    assert uri.startswith("mlflow-artifacts:/")
    look = "import s3fs, sys; print(s3fs.S3FileSystem().cat(sys.argv[1]).decode())"
    path = uri.replace("mlflow-artifacts:/", "mlflow/", 1)
    assert run_as_worker(team, tmp_path, look, f"{path}/note.txt").strip() == "seen by all"

    database.run("pg_dump", "--format=custom", "--file", str(tmp_path / "mlflow.dump"), "mlflow")
    database.run("createdb", "restored")
    database.run("pg_restore", "--dbname=restored", "--exit-on-error", str(tmp_path / "mlflow.dump"))
    metrics = "select value from metrics join runs using (run_uuid) where experiment_id = 0"
    assert database.run("psql", "--dbname=restored", "-t", f"--command={metrics}").split() == ["0.25"]


@pytest.mark.parametrize(
    ("host", "status"), [("mlflow", 200), ("localhost", 200), ("elsewhere.example", 403)]
)
def test_mlflow_answers_under_the_names_it_was_given(team, servers, host, status):
    port = team.values["MLFLOW_PORT"]
    page = f"http://{programs.HOST}:{port}/api/2.0/mlflow/experiments/get?experiment_id=0"
    assert answer(page, Host=f"{host}:{port}") == status


def test_secrets_are_not_in_the_list_of_processes(team, servers):
    secrets = [team.values[name] for name in ("POSTGRES_PASSWORD", "S3_PASSWORD", "PREFECT_LOGIN")]
    for server in servers.values():
        for pid in (server.pid, *below(server.pid)):
            line = Path(f"/proc/{pid}/cmdline").read_text()
            assert not [secret for secret in secrets if secret in line]


@pytest.mark.parametrize("service", ["prefect", "mlflow"])
def test_a_health_check_asks_as_the_file_says(team, servers, service):
    assert team.healthy(service)


def test_without_postgresql_these_tests_are_left_out_and_say_how_to_get_it(monkeypatch):
    monkeypatch.setattr(postgres, "binaries", lambda: None)
    with pytest.raises(pytest.skip.Exception, match="apt-get install postgresql"), postgres.server("secret"):
        pytest.fail("started nothing")
