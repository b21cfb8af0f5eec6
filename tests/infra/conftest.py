import os
import signal
import uuid
from contextlib import suppress

import pytest
import s3
from composed import INFRA, Team
from outages import free_port
from postgres import server
from processes import awake

from flows.server import programs

PASSWORD = "onlyfortests"


@pytest.fixture(scope="session")
def database():
    with server(PASSWORD) as running:
        running.run("psql", "--quiet", "--dbname=postgres", f"--file={INFRA / 'databases.sql'}")
        yield running


@pytest.fixture(scope="session")
def team(database, tmp_path_factory):
    """The team's servers with an empty object store, ready to be started."""
    with s3.server() as store:
        yield Team(
            tmp_path_factory.mktemp("team"),
            values={
                "POSTGRES_PASSWORD": PASSWORD,
                "S3_USER": "fewstep",
                "S3_PASSWORD": uuid.uuid4().hex,
                "PREFECT_LOGIN": f"fewstep:{uuid.uuid4().hex}",
                "PREFECT_PORT": str(free_port()),
                "MLFLOW_PORT": str(free_port()),
            },
            hosts={
                "postgres:5432": f"{programs.HOST}:{database.port}",
                "minio:9000": store.removeprefix("http://"),
                "prefect": programs.HOST,
                "mlflow": programs.HOST,
            },
        )


@pytest.fixture(scope="session")
def both_servers(team):
    """Both servers, running."""
    team.finish("buckets")
    with team.running("prefect", "mlflow") as processes:
        try:
            yield processes
        finally:  # to end as they do for a user
            for process in processes.values():
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGCONT)


@pytest.fixture(scope="module")
def servers(both_servers):
    """Both servers, which rest while no file of tests needs them."""
    with awake(*(process.pid for process in both_servers.values())):
        yield both_servers
